"""A shard's outcomes: the decision, the map as bytes, and what is kept."""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import Any

import numpy as np
import pytest

from db.queue.leases import TRIES, Shard
from db.queue.results import Cam, NotPredicted, Prediction
from db.queue.reuse import Known
from trainer.card import Card, Group
from worker import archive
from worker.archive import Member
from worker.archive.trouble import Whose
from worker.decoding.pool import Decoded, Film, Place
from worker.decoding.protocol import Failure
from worker.engine import Outputs
from worker.machine.privacy import Privacy
from worker.scoring.doubts import Witnesses
from worker.scoring.engine_thread import Model
from worker.scoring.shard import ShardRun, stored_name

PRIVACY = Privacy(b"the key of a site")


def run(card: Card, accept: tuple[str, ...] = (), **spec: Any) -> ShardRun:
    """A shard of three films that begins with item 10."""
    members = [
        Member(name=name, offset=0, stored=1, size=1, method=0, crc=None)
        for name in ("a.png", "b\x1b.png", "c.png")
    ]
    shard = Shard(
        job_id=1, shard_no=2, token=1, worker_id="w", attempt=1, source_no=0, first_item=10,
        n_items=3, listing=archive.pack(members), model_id=1, priority=0, spec=spec,
    )  # fmt: skip
    place = Place(kind="folder", uri="/films", edition="1")
    return ShardRun(
        hash="blake3",
        shard=shard, card=card, model=Model(1, "fp32"), place=place, members=members,
        accept=accept, privacy=PRIVACY,
    )  # fmt: skip


def back(
    found: ShardRun,
    index: int,
    failure: tuple[str, str, bool] | None = None,
    content: bytes | None = None,
    tags: dict[str, str] | None = None,
    reader: tuple[str, int] | None = ("DICOM", 2),
    whose: Whose = "",
) -> None:
    """Item `index` comes back from a decoder."""
    film = Film(
        token=None, place=found.place, member=found.members[index], rule="", size=1, offset=0
    )
    reader = None if content is None else reader
    found.read(
        index,
        Decoded(film=film, failure=failure, whose=whose, content=content, tags=tags, reader=reader),
    )


def outputs(
    *scores: tuple[float, ...], cam: Any = None, ood: Any = None, look: Any = None
) -> Outputs:
    """What a network may have answered on some films."""
    return Outputs(
        scores=np.array(scores, np.float32),
        cam=None if cam is None else np.array(cam, np.float32),
        ood=None if ood is None else np.array(ood, np.float32),
        look=None if look is None else np.array(look, np.float32),
    )


def only(found: ShardRun) -> Prediction:
    """The one prediction."""
    (outcome,) = found.outcomes
    assert isinstance(outcome, Prediction)
    return outcome


def test_a_prediction_holds_what_the_network_answered(card: Card) -> None:
    chosen = dataclasses.replace(card, ood_threshold=1.5)
    found = run(chosen)
    found.scored([1], [1], outputs((0.9, 0.1), (0.25, 0.75), ood=[1.0, 2.0]))
    outcome = only(found)
    assert (outcome.item_no, outcome.name) == (11, "b\\x1b.png")
    assert (outcome.label_no, outcome.probability, outcome.positive) == (1, 0.75, True)
    assert (outcome.ood, outcome.unusual) == (2.0, True)
    assert (outcome.scores, outcome.cam) == (None, None)
    assert not found.complete


GROUPS = tuple(
    Group(what=what, label="PNEUMONIA", films={"PNEUMONIA": 30}, patients=30, found=1, false=0)
    for what in ("a frame", "a mark")
)


def test_a_prediction_says_which_training_films_its_film_looks_most_like(card: Card) -> None:
    found = run(dataclasses.replace(card, looks=GROUPS))
    half, looks = (0.5, 0.5), [[0.6, 0.9], [0.5, 0.1], [0.49, 0.4]]
    found.scored([0, 1, 2], [0, 1, 2], outputs(half, half, half, look=looks))
    assert [o.look for o in found.outcomes if isinstance(o, Prediction)] == [1, 0, None]
    older = run(card)
    older.scored([0], [0], outputs(half))
    assert only(older).look is None


def test_what_the_store_knows_of_a_look_is_answered_too(card: Card) -> None:
    found = run(dataclasses.replace(card, looks=GROUPS))
    back(found, 0, content=b"0" * 16)
    found.known({b"0" * 16: KNOWN._replace(look=1)})
    assert only(found).look == 1


def test_all_scores_are_kept_where_there_are_more_than_two_classes(card: Card) -> None:
    found = run(dataclasses.replace(card, labels=("A", "B", "C"), positive="C"))
    found.scored([0], [0], outputs((0.25, 0.5, 0.25)))
    assert only(found).scores == [0.25, 0.5, 0.25]
    assert only(found).label_no == 1
    assert (only(found).ood, only(found).unusual) == (None, False)


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    "answered",
    [
        outputs((0.5, 0.5), (NAN, NAN)),
        outputs((0.5, 0.5), (0.5, 0.5), ood=[1.0, INFINITE]),
        outputs((0.5, 0.5), (0.5, 0.5), cam=[[[0.0]], [[NAN]]]),
        outputs((0.5, 0.5), (0.5, 0.5), look=[[0.0, 0.0], [0.0, NAN]]),
    ],
)
def test_a_film_whose_answer_is_no_number_is_in_error_and_no_other(
    card: Card, answered: Outputs
) -> None:
    found = run(card, keep_cam="all")
    found.scored([0, 1], [0, 1], answered)
    good, bad = found.outcomes
    assert isinstance(good, Prediction)
    assert isinstance(bad, NotPredicted)
    assert (bad.item_no, bad.code, bad.refused) == (11, "no_score", False)
    assert "--precision fp32" in bad.detail


def test_a_film_that_failed_is_an_error_or_a_refusal(card: Card) -> None:
    found = run(card)
    back(found, 0, ("truncated", "it ends early", False))
    back(found, 2, ("too_small", "an icon", True))
    expected = [
        NotPredicted(item_no=10, name="a.png", code="truncated", detail="it ends early"),
        NotPredicted(item_no=12, name="c.png", code="too_small", detail="an icon", refused=True),
    ]
    assert found.outcomes == expected
    found.scored([1], [0], outputs((0.5, 0.5)))
    assert found.complete


@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        ({"keep_cam": "all"}, (True, True)),
        ({"keep_cam": "flagged"}, (True, False)),
        ({"keep_cam": "none"}, (False, False)),
        ({}, (True, False)),
    ],
)
def test_maps_are_kept_of_all_films_of_flagged_ones_or_of_none(
    card: Card, spec: dict[str, str], kept: tuple[bool, bool]
) -> None:
    maps = [[[0.0, 1.0], [2.0, 3.0]]] * 2
    for row, expected in enumerate(kept):
        found = run(card, **spec)
        found.scored([0], [row], outputs((0.2, 0.8), (0.8, 0.2), cam=maps))
        assert (only(found).cam is not None) == expected


def test_a_map_comes_back_from_its_bytes_within_half_a_level(card: Card) -> None:
    rng = np.random.default_rng(0)
    for scale, offset in ((1, 0), (1e-3, 5), (1e4, -3), (0, 2)):
        cam = (rng.normal(size=(5, 7)) * scale + offset).astype(np.float32)
        found = run(card, keep_cam="all")
        found.scored([0], [0], outputs((0.5, 0.5), cam=cam[None]))
        kept = only(found).cam
        assert kept is not None
        assert (kept.height, kept.width, len(kept.data)) == (5, 7, 35)
        levels = np.frombuffer(kept.data, np.uint8).reshape(5, 7)
        span = kept.high - kept.low
        again = kept.low + levels * (span / 255)
        bound = 0.5 * span / 255 + 1e-6 * max(abs(kept.low), abs(kept.high))
        assert np.abs(again - cam).max() <= bound


def test_a_dicom_is_named_by_a_keyed_hash_and_its_map_stays_here(card: Card) -> None:
    found = run(card)
    tags = {"patient": "SMITH-1", "study": "1.2.3", "accession": ""}
    back(found, 0, tags=tags)
    back(found, 1, ("lateral", "a lateral view", True), tags=tags)
    found.scored([0], [0], outputs((0.5, 0.5)))
    names = [stored_name(PRIVACY, name, hide=True) for name in ("a.png", "b\\x1b.png")]
    assert sorted(o.name for o in found.outcomes) == sorted(names)
    assert sorted(found.hashed_names) == [(10, names[0], "a.png"), (11, names[1], "b\\x1b.png")]
    for outcome in found.outcomes:
        assert outcome.identity is not None
        assert outcome.identity.study == PRIVACY.hash("study", "1.2.3")
        assert outcome.identity.accession is None
        assert "SMITH" not in repr(outcome)


def test_names_are_hashed_where_that_is_asked_or_their_ending_is_that_of_dicom(card: Card) -> None:
    found = run(card, hash_names=True)
    back(found, 0, ("truncated", "it ends early", False))
    assert found.outcomes[0].name == stored_name(PRIVACY, "a.png", hide=True)
    assert stored_name(Privacy(b"another site's key"), "a.png", hide=True) != found.outcomes[0].name
    plain = run(card)
    plain.members[0] = archive.Member(
        name="SMITH^J.DCM", offset=0, stored=1, size=1, method=0, crc=None
    )
    back(plain, 0, ("missing", "it has gone", False))
    assert plain.outcomes[0].name == stored_name(PRIVACY, "SMITH^J.DCM", hide=True)


def named(found: ShardRun, index: int, name: str) -> str:
    """Give a member this name; the hash that stands for it."""
    found.members[index] = found.members[index]._replace(name=name)
    return stored_name(PRIVACY, name, hide=True)


@pytest.mark.parametrize("name", ["SMITH/IM0001", "SMITH/1.2.840.113619", "SMITH/film.img"])
def test_a_film_that_was_never_read_is_named_by_a_hash_unless_its_ending_is_of_no_dicom(
    card: Card, name: str
) -> None:
    found = run(card)
    hashed = named(found, 0, name)
    back(found, 0, ("decoder_died", "the decoder ended at this film (signal 11)", False))
    named(found, 1, "SMITH/film.PNG")
    back(found, 1, ("timeout", "it took too long", False))
    assert [o.name for o in found.outcomes] == [hashed, "SMITH/film.PNG"]
    assert found.hashed_names == [(10, hashed, name)]


def test_a_film_that_stayed_unread_is_named_by_a_hash_unless_its_ending_is_of_no_dicom(
    card: Card,
) -> None:
    found = run(card)
    found.shard.unread.update({10: TRIES - 1, 11: TRIES - 1})
    hashed = named(found, 0, "SMITH/IM0001")
    for index in range(2):
        back(found, index, Failure("io_error", "EIO", refused=False), whose="film")
    found.give_up_unread()
    assert [o.name for o in found.outcomes] == [hashed, "b\\x1b.png"]


def test_the_content_of_a_film_says_whether_it_is_dicom_where_its_name_does_not(
    card: Card,
) -> None:
    found = run(card)
    for index, name in enumerate(("SMITH/IM0001", "SMITH/IM0002", "SMITH/IM0003")):
        named(found, index, name)
    wrong = ("truncated", "it ends early", False)
    for index, kind in enumerate(("JPEG", "DICOM", "")):
        back(found, index, wrong, content=bytes([index]) * 16, reader=(kind, 1))
    assert [o.name[0] for o in found.outcomes] == ["S", "#", "#"]


#: What the store has of a positive film.
KNOWN = Known(
    job_id=7, item_no=3, label_no=1, probability=0.75, scores=None, ood=1.0,
    cam=Cam(1, 1, 0.0, 1.0, b"x"), identity=None, overridden=frozenset(), reader=2,
)  # fmt: skip


def test_what_the_store_knows_is_answered_and_the_rest_waits(card: Card) -> None:
    found = run(card)
    contents = [bytes([n]) * 16 for n in range(3)]
    back(found, 0, content=contents[0])
    back(found, 1, ("missing", "it has gone", False))
    back(found, 2, content=contents[2])
    found.known({contents[2]: KNOWN})
    assert list(found.waiting) == [0]
    answered = next(o for o in found.outcomes if isinstance(o, Prediction))
    assert (answered.item_no, answered.probability, answered.positive) == (12, 0.75, True)
    assert answered.reused_from == (7, 3)


@pytest.mark.parametrize(
    ("accept", "needed", "answers"),
    [
        ((), (), True),
        (("lateral",), (), True),
        ((), ("lateral",), False),
        (("burned_in",), ("lateral",), False),
        (("lateral",), ("lateral", "burned_in"), False),
        (("burned_in", "lateral"), ("lateral",), True),
    ],
)
def test_what_needed_a_refusal_to_be_overridden_answers_only_a_job_that_overrides_it_too(
    card: Card, accept: tuple[str, ...], needed: tuple[str, ...], answers: bool
) -> None:
    found = run(card, accept)
    back(found, 0, content=b"0" * 16)
    found.known({b"0" * 16: KNOWN._replace(overridden=frozenset(needed))})
    assert list(found.waiting) == ([1, 2] if answers else [0, 1, 2])


@pytest.mark.parametrize(
    ("keep_cam", "probability", "answers"),
    [
        ("all", 0.75, False),
        ("all", 0.25, False),
        ("flagged", 0.75, False),
        ("flagged", 0.25, True),
        ("none", 0.75, True),
    ],
)
def test_what_has_no_map_answers_no_job_that_keeps_one(
    card: Card, keep_cam: str, probability: float, answers: bool
) -> None:
    found = run(card, keep_cam=keep_cam)
    back(found, 0, content=b"0" * 16)
    found.known({b"0" * 16: KNOWN._replace(cam=None, probability=probability)})
    assert list(found.waiting) == ([1, 2] if answers else [0, 1, 2])


def test_what_another_version_read_is_no_answer(card: Card) -> None:
    found = run(card)
    for index, version in enumerate((1, 2, 3)):
        back(found, index, content=bytes([index]) * 16, reader=("DICOM", version))
    found.known({bytes([n]) * 16: KNOWN for n in range(3)})
    assert list(found.waiting) == [0, 2]
    assert (only(found).item_no, only(found).reader) == (11, ("DICOM", 2))


def test_a_prediction_says_what_its_film_needed_to_be_overridden(card: Card) -> None:
    found = run(card, ("lateral", "burned_in"))
    film = Film(token=None, place=found.place, member=found.members[0], rule="", size=1, offset=0)
    found.read(0, Decoded(film=film, content=b"0" * 16, overridden=("lateral",), reader=("PNG", 7)))
    found.scored([0], [0], outputs((0.5, 0.5)))
    assert (only(found).overridden, only(found).reader) == (("lateral",), ("PNG", 7))


@pytest.mark.parametrize(
    ("failure", "content", "whose", "there"),
    [
        (None, b"c" * 16, "", True),
        (Failure("lateral", "it is a lateral view", refused=True), b"c" * 16, "", True),
        (Failure("decoder_died", "the decoder ended at this film", refused=False), None, "", False),
        (Failure("unreadable", "it cannot be read", refused=False), None, "film", False),
    ],
)
def test_a_witness_says_that_its_source_is_there_if_its_bytes_were_read(
    card: Card, failure: Failure | None, content: bytes | None, whose: Whose, there: bool
) -> None:
    of = run(card)
    asked = Witnesses(
        of=of, card=card, model=of.model, place=of.place, members=of.members[:1], hash="blake3",
        unread=deque([0]),
    )  # fmt: skip
    film = Film(token=None, place=of.place, member=of.members[0], rule="", size=1, offset=0)
    asked.read(0, Decoded(film=film, failure=failure, content=content, whose=whose))
    assert asked.complete
    assert asked.there is there
