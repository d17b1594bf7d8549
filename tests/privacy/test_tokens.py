"""The search finds a token wherever one may be: else it would prove nothing."""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import lzma
import pickle
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
import sqlalchemy as sa
import zstandard

from db.base import database
from db.base.schema import model_chunks, sources
from tests.privacy import films, hospital, places
from tests.privacy.hospital import Hospital
from tests.support import servers
from tests.support.tokens import Tokens, found
from tests.worker import samples

WAYS: dict[str, Callable[[str], bytes]] = {
    "UTF-8": str.encode,
    "UTF-8 in small letters": lambda word: word.lower().encode(),
    "UTF-16, little end first": lambda word: word.encode("utf-16-le"),
    "UTF-16, big end first": lambda word: word.encode("utf-16-be"),
    "hexadecimal": lambda word: word.encode().hex().encode(),
    "hexadecimal in capitals": lambda word: word.encode().hex().upper().encode(),
    "hexadecimal with spaces": lambda word: word.encode().hex(" ").encode(),
    **{
        f"base64, {shift} bytes in": lambda word, s=shift: base64.b64encode(  # type: ignore[misc]
            b"abc"[:s] + word.encode() + b"behind"
        )
        for shift in range(3)
    },
}

PACKED: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda data: data,
    "zlib": zlib.compress,
    "gzip": gzip.compress,
    "zstandard": lambda data: zstandard.ZstdCompressor().compress(data),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "pickled": pickle.dumps,
    "JSON": lambda data: json.dumps({"a": [data.decode("latin-1")]}).encode(),
    "zlib behind zlib": lambda data: zlib.compress(b"x") + zlib.compress(data),
    "gzip in zlib": lambda data: zlib.compress(gzip.compress(data)),
}


@pytest.mark.parametrize("kind", ["word", "number"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("packed", PACKED)
def test_a_token_is_found_however_it_is_written_and_packed(
    kind: str, way: str, packed: str
) -> None:
    if packed == "JSON" and way.startswith("UTF-16"):
        pytest.skip("JSON is UTF-8")
    tokens = Tokens()
    for _ in range(40):
        word = getattr(tokens, kind)("film", "planted")
    data = PACKED[packed](b"before " + WAYS[way](word) + b" behind")
    assert word in {token for token, _ in found(data)}
    assert tokens.kind(word) == "film"


def test_a_token_is_found_in_archives(tmp_path: Path) -> None:
    tokens = Tokens()
    name, data = tokens.word("film", "name"), tokens.word("text", "data").encode()
    for path in (
        films.write_zip(tmp_path / "a.zip", [(name, data)], ""),
        films.write_tar_gz(tmp_path / "a.tar.gz", [(name, data)], "x"),
    ):
        assert {token for token, _ in found(path.read_bytes())} == {name, data.decode()}


@pytest.fixture
def site(database_url: str, valkey: servers.Valkey, tmp_path: Path) -> Iterator[Hospital]:
    """A site at which nothing happens; model 1 is there."""
    model = tmp_path / "small.onnx"
    samples.write_model(model, ("NORMAL", "PNEUMONIA"), seed=1, size=32)
    with hospital.opened(database_url, valkey, tmp_path, model, Tokens()) as made:
        yield made


def test_a_token_is_found_in_every_place(site: Hospital, tmp_path: Path) -> None:
    assert places.wrong(site) == []
    source = tmp_path / "x.png"
    source.write_bytes(site.films.png())
    job_id = site.here.score(source, model_id=1, notify=False)
    looked_at = {place for place, _ in places.everywhere(site)}
    assert {f"column sources.{column.name}" for column in sources.c} <= looked_at

    def planted(place: str) -> str:
        return site.tokens.word("text", f"planted in {place}")

    client = site.broker.client()
    client.set(planted("a key"), "x")
    client.set("string", planted("a string"))
    client.lpush("list", planted("a list"))
    client.hset("hash", planted("a field"), planted("a hash"))
    client.sadd("set", planted("a set"))
    client.zadd("zset", {planted("a sorted set"): 1})
    client.xadd("stream", {"x": planted("a stream")})
    client.delete("set")
    client.close()
    site.posted.append(planted("the webhook").encode())
    site.told.write_text(planted("the command"))
    (site.here.logs / "02.log").write_text(planted("a log"))
    home = site.here.settings.home
    for name in ("kept/deep", planted("a file's name")):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(
            zlib.compress(planted(f"the file {name[:4]}").encode("utf-16-le"))
        )
    site.exported.mkdir()
    (site.exported / "model.onnx").write_bytes(_model(planted("metadata"), planted("weights")))
    half = len(cut := planted("two chunks").encode()) // 2
    with database.writing(site.here.engine) as connection:
        connection.execute(
            sa.text("UPDATE jobs SET submitted_by = :text WHERE id = :job"),
            {"text": planted("a text column"), "job": job_id},
        )
        connection.execute(
            sa.update(sources).values(
                seek_index=zlib.compress(b"x") + zlib.compress(planted("a column").encode()),
                paths=zlib.compress(planted("sources.paths").encode()),
            )
        )
        sha256 = connection.execute(sa.select(model_chunks.c.sha256).limit(1)).scalar_one()
        for number, part in ((900, cut[:half]), (901, cut[half:])):
            connection.execute(
                sa.insert(model_chunks).values(sha256=sha256, chunk_no=number, data=part)
            )
    faults = "\n".join(places.wrong(site))
    for what in site.tokens.of.values():
        if "planted" in what:
            assert what in faults, what


def _model(metadata: str, weights: str) -> bytes:
    """A model file with a token in its metadata and one in its weights."""
    made = onnx.ModelProto()
    onnx.helper.set_model_props(made, {"card": json.dumps({"notes": [metadata]})})
    made.graph.initializer.append(
        onnx.TensorProto(name="w", dims=[len(weights)], data_type=2, raw_data=weights.encode())
    )
    return made.SerializeToString()
