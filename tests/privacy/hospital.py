"""A site at which all happens once that writes something, over films made of tokens."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db.base import database
from db.base.schema import schedules as schedules_table
from db.nightly import runs, schedules
from db.queue import jobs
from tests.privacy import films as made
from tests.privacy.films import Films
from tests.support import servers, soak
from tests.support.site import Site, site
from tests.support.tokens import Tokens
from tests.worker import samples
from trainer.data.labelled import NAMING
from worker import wakeup

#: The least that is a training: what it learns is not what is tested.
JOB = {
    "epochs": 1, "patience": 0, "size": 32, "batch_size": 8, "lr": 1e-3, "init": "scratch",
    "precision": "fp32", "val_fraction": 0.25, "operating_point": "youden", "ema": 0.9,
    "augment": 0.0, "positive": "PNEUMONIA", "workers": 1, "seed": 0, "naming": NAMING,
}  # fmt: skip

#: Longest wait, in seconds: a training takes minutes where other tests run beside it.
PATIENCE_S = 600.0

#: Patients of a class in a labelled folder.
PATIENTS = 6

CLASSES = ("NORMAL", "PNEUMONIA")


@dataclass(kw_only=True)
class Hospital:
    """The site, and all that it has sent away."""

    here: Site
    broker: servers.Valkey
    root: Path
    tokens: Tokens
    films: Films
    #: Bodies and heads of what the webhook got.
    posted: list[bytes] = field(default_factory=list)

    @property
    def told(self) -> Path:
        """What the command of the site got, and its variables."""
        return self.root / "told"

    @property
    def exported(self) -> Path:
        """Where model files are exported to."""
        return self.root / "exported"

    def source(self, ending: str = "") -> Path:
        """A path of which each part is what a person gives to the command line."""
        folder = self.root / self.tokens.word("source", "folder above")
        folder.mkdir()
        return folder / (self.tokens.word("source", "source") + ending)

    def _wait(self, true: Callable[[], Any], what: str) -> None:
        try:
            samples.wait(true, what, PATIENCE_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.here.tail()}") from None

    def _ended(self, job_id: int) -> str:
        engine = self.here.engine
        self._wait(
            lambda: jobs.get(engine, job_id)["finished_at"] is not None, f"job {job_id} to end"
        )
        return self.here.state(job_id)

    # Scoring.

    def score(self) -> list[int]:
        """Score every kind of source, in the clear and with hashed names; the jobs."""
        found = []
        for image, dicom, spec in (
            ("film", "dicom", {}), ("hidden", "hidden", {"hash_names": True}),
        ):  # fmt: skip
            mixed = self.films.mixed
            sources = [
                made.write(self.source(), mixed(image, dicom)),
                made.write_zip(self.source(".zip"), mixed(image, dicom), self._text("comment")),
                made.write_tar_gz(
                    self.source(".tar.gz"),
                    [*mixed(image, dicom), *self.films.large(dicom)],
                    self._text("owner"),
                ),
                self._file(".png", self.films.png()),
                self._file(".dcm", self.films.dicom()),
            ]
            found.append(self.here.score(*sources, model_id=1, spec=spec))
        found += [self._cut_short(), self._gone()]
        for job_id in found[:2]:
            assert self._ended(job_id) == "completed_with_errors"
        assert self._ended(found[2]) == "failed"
        self._wait(lambda: self.here.state(found[3]) == "paused", "patience to end")
        return found

    def _text(self, what: str) -> str:
        return self.tokens.word("text", what)

    def _file(self, ending: str, data: bytes) -> Path:
        path = self.source(ending)
        path.write_bytes(data)
        return path

    def _cut_short(self) -> int:
        """A job whose zip is cut short once it is submitted."""
        path = self.source(".zip")
        whole = made.write_zip(path, self.films.mixed("film", "dicom"), "").read_bytes()
        job_id = self.here.score(path, model_id=1, notify=False)
        path.write_bytes(whole[: len(whole) // 2])
        wakeup.notify(self.here.settings, "score")
        return job_id

    def _gone(self) -> int:
        """A job whose folder is away until its patience is over."""
        path = made.write(self.source(), self.films.mixed("film", "dicom"))
        spec = {"keep_cam": "flagged", "source_patience_s": 0.5}
        job_id = self.here.score(path, model_id=1, spec=spec, notify=False)
        path.rename(self.source())
        wakeup.notify(self.here.settings, "score")
        return job_id

    def watch(self) -> sa.RowMapping:
        """A watched folder with films, an archive, and a name that cannot be kept; its run."""
        folder = made.write(self.source(), self.films.mixed("film", "dicom"))
        odd = f"{self.tokens.word('film', 'odd')}\n{self.tokens.word('film', 'odd')}.png"
        made.write(folder, [(odd, self.films.png())])
        made.write_zip(
            folder / f"{self.tokens.word('source', 'archive')}.zip",
            self.films.mixed("film", "dicom"),
            "",
        )
        spec = {
            "job": {"sources": [str(folder)], "model": "champion", "keep_cam": "flagged",
                    "accept": [], "hash_names": False, "force": False},
            "precision": "fp32", "engine": "auto", "priority": 0, "watch": {"settle_s": 0.1},
        }  # fmt: skip
        run = self._run("inbox", "score", spec)
        # Nothing is new, and what cannot be taken is said again.
        self._run("inbox", "score", None)
        return run

    # Training.

    def labelled(self, folder: Path, image: str, dicom: str) -> Path:
        """A labelled folder, with films that are left out for each reason."""
        split = folder / "train"
        for number, name in enumerate(CLASSES):
            films = []
            for _ in range(PATIENTS):
                patient = self.tokens.word(image, "patient")
                films += [(f"{patient}_{n}.png", self.films.png(bool(number))) for n in range(2)]
            films += [
                self.films.named(dicom, self.films.dicom(bool(number)), ending)
                for ending in (".dcm", "")
            ]
            made.write(split / name, films)
        both = self.films.png()
        for name in CLASSES:
            made.write(split / name, [self.films.named(image, both, ".png")])
        made.write(split / CLASSES[0], [self.films.named(image, self.films.jpeg()[:900], ".jpeg")])
        made.write(split / CLASSES[0], [self.films.named(dicom, self.films.dicom()[:900], ".dcm")])
        made.write(split / f"_{self.tokens.word(image, 'apart')}", [("1.png", self.films.png())])
        for name in CLASSES:  # a patient of train/ in val/
            known = next((split / name).glob("*_0.png")).name
            made.write(folder / "val" / name, [(known, self.films.png())])
        return folder

    def manifest(self, folder: Path, image: str) -> tuple[Path, Path]:
        """A second source, of one film that is there and one that is new; and corrections."""
        there = sorted(folder.glob("train/NORMAL/*_0.png"))
        second = self._file(".csv", b"")
        new = self.films.named(image, self.films.png(), ".png")
        made.write(second.parent, [new])
        lines = ["path,label", f"{there[0]},PNEUMONIA", f"{new[0]},NORMAL", f"{there[1]},"]
        second.write_text("\n".join(lines) + "\n")
        corrections = self._file(".csv", f"path,label\n{there[2]},PNEUMONIA\n".encode())
        return second, corrections

    def train(self, image: str, dicom: str, **spec: Any) -> int:
        """A training job by hand, of several sources."""
        folder = self.labelled(self.source(), image, dicom)
        second, corrections = self.manifest(folder, image)
        job = {
            **JOB, "data": [str(folder), str(second)], "corrections": str(corrections),
            "patient_pattern": "[A-Z]{12}", "model_dir": str(self.source()), **spec,
        }  # fmt: skip
        job_id = self._train(job)
        assert self._ended(job_id) == "completed", self.here.tail()
        return job_id

    def fail_to_train(self) -> int:
        """A training job whose film is not what its manifest says."""
        name, data = self.films.named("film", self.films.png(), ".png")
        path = self._file(".csv", f"path,label,sha256\n{name},A,{'0' * 64}\n".encode())
        with path.open("a") as file:
            file.write(f"{name}x,B,\n")
        made.write(path.parent, [(name, data)])
        job_id = self._train({**JOB, "data": str(path), "positive": "A"})
        assert self._ended(job_id) == "failed"
        return job_id

    def _train(self, spec: dict[str, Any]) -> int:
        job_id = database.write(
            self.here.engine,
            lambda c: jobs.submit(c, kind="train", spec=spec, submitted_by="tests"),
        )
        assert wakeup.notify(self.here.settings, "train")
        return job_id

    def nights(self, image: str, dicom: str, **spec: Any) -> list[sa.RowMapping]:
        """A night that makes a model, and one whose films are not fit; the runs."""
        folder = self.labelled(self.source(), image, dicom)
        job = {**JOB, "data": str(folder), "patient_pattern": "[A-Z]{12}", **spec}
        night = {"job": job, "night": {"promote": False}}
        first = self._run("nightly", "train", night)
        assert first["candidate_id"] is not None, first["reason"]
        for film in sorted(folder.rglob("*.png"))[::2]:
            film.write_bytes(film.read_bytes()[:900])
        second = self._run("nightly", "train", None)
        assert "cannot be read" in second["reason"]
        return [first, second]

    def _run(self, name: str, kind: str, spec: dict[str, Any] | None) -> sa.RowMapping:
        """A run of a schedule, which is added where there is a spec; once it is over."""
        engine = self.here.engine

        def make(connection: sa.Connection) -> int:
            if spec is not None:
                schedules.add(
                    connection, name=name, cron="0 2 1 1 *", tz="UTC", kind=kind, spec=spec,
                    catch_up_s=60, created_by="tests",
                )  # fmt: skip
            row = connection.execute(
                sa.select(schedules_table).where(schedules_table.c.name == name)
            ).one()
            at = schedules.database_clock(engine)
            made = schedules.make_run(connection, row, at, "clock")
            assert made is not None
            return made

        run_id = database.write(engine, make)
        wakeup.notify(self.here.settings, kind)
        self._wait(
            lambda: runs.get(engine, run_id)["finished_at"] is not None, f"a run of {name} to end"
        )
        return runs.get(engine, run_id)

    def export(self, model_id: int) -> None:
        """Write a model's files as a person has them written."""
        self.exported.mkdir()
        formats: list[tuple[str, list[str]]] = [("fp32.onnx", [])]
        if soak.RUN is not soak.Run.QUICK:
            # No int8: so few films are not enough to keep such a file.
            formats += [
                ("jetson", ["--format", "jetson-inference"]),
                ("pytorch", ["--format", "pytorch"]),
            ]
        for name, more in formats:
            done = self.here.run(
                "models", "export", str(model_id), str(self.exported / name), *more
            )
            assert done.returncode == 0, done.stderr

    def delivered(self) -> None:
        """Wait until no notice is left to be sent."""
        self._wait(
            lambda: not self.here.rows("SELECT 1 FROM notices WHERE state = 'waiting'"),
            "notices to be sent",
        )


@contextmanager
def opened(
    database_url: str, broker: servers.Valkey, root: Path, model: Path, tokens: Tokens
) -> Iterator[Hospital]:
    """A site with one worker that does everything, a webhook and a command; model 1 is there."""
    told = root / "told"
    script = f"cat >> {shlex.quote(str(told))}; env | grep ^PNEUMOQ_ >> {shlex.quote(str(told))}"
    with _webhook() as (url, posted), site(
        database_url, broker, root / "site", hook_url=url, sweep_s=0.5,
        hook_command=shlex.join(["sh", "-c", script]),
    ) as here:  # fmt: skip
        samples.register(here.engine, model)
        yield Hospital(
            here=here, broker=broker, root=root, tokens=tokens, films=Films(tokens), posted=posted
        )


@contextmanager
def _webhook() -> Iterator[tuple[str, list[bytes]]]:
    """A web server's address, and all that it is sent."""
    posted: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append(self.path.encode() + bytes(self.headers) + body)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", posted
        server.shutdown()
