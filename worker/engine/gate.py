"""The gate that an engine passes before it serves: it must agree with the processor's engine.

Both read the same model file and the same golden films, which are drawn here: no patient's film is
ever kept for this. The films are those, of a larger set, whose probabilities lie apart, since near
0 and 1 all engines agree; and the map, the distance and the looks are compared too, since a model
that is sure of every film shows differences nowhere else. Knows nothing of the database.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from trainer import anatomy, phantom
from trainer.card import Card
from trainer.judging import parity
from worker.engine.base import Engine, Outputs, Pending
from worker.engine.choose import Wanted, open_engine

Films = NDArray[np.uint8]
Floats = NDArray[np.float32]

#: Films that are drawn, and that are compared at most.
DRAWN, FILMS = 160, 96

#: Films of one made-up patient.
EXPOSURES = 8

#: Bins of probability among which the films are spread.
BINS = 24

#: A film this near the operating point is left out: a difference that means nothing turns it.
ON_THE_FENCE = parity.DELTA / 2


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far an engine of some precision may be from the processor's."""

    #: |Δ probability|; of fp32 and fp16 for every film.
    probability: float
    #: |Δ| of maps and distances, as a share of the range that they span on these films.
    maps: float


#: |Δ| of looks' logits, as a share of their range: they are computed in float in every precision.
#: Films that are drawn look like no group, and their looks are near 0; beyond FAR libraries differ
#: in what is left of a sigmoid (ONNX Runtime's ends at 18).
LOOKS, FAR = 1e-2, 10.0

#: fp32 leaves rounding only. fp16 is compared with the same half-precision weights computed in
#: single precision; int8 with the same codes; bf16 with fp32.
LIMITS = {
    "fp32": Limits(probability=1e-4, maps=1e-3),
    "fp16": Limits(probability=2e-3, maps=2e-2),
    "bf16": Limits(probability=parity.DELTA, maps=0.2),
    "int8": Limits(probability=parity.DELTA, maps=0.2),
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether an engine may serve."""

    passed: bool
    #: Largest |Δ probability|.
    delta: float
    #: Share of films with the same decision.
    agreement: float
    #: How many were compared.
    films: int
    #: A clause for a person: "parity 3e-05 on 96 films", or what is wrong.
    text: str


def golden(card: Card) -> Films:
    """Made-up films for a model of this size, `uint8 [DRAWN, 1, S, S]`; always the same.

    Patients from healthy to sick without a step between, and films from sharp to blurred, from
    faint to dark. Not to be written to.
    """
    return _drawn(card.size)


# One precision after another asks for the same.
@functools.lru_cache(maxsize=1)
def _drawn(size: int) -> Films:
    films = np.empty((DRAWN, 1, size, size), np.uint8)
    for start in range(0, DRAWN, EXPOSURES):
        patient = anatomy.draw(np.random.default_rng([start, 0]), positive=True)
        for n in range(start, min(start + EXPOSURES, DRAWN)):
            rng = np.random.default_rng([n, 1])
            sick = np.float32(rng.uniform(0, 1.3))
            body = dataclasses.replace(patient, mottle=patient.mottle * sick)
            film = phantom.expose(rng, body, size, size)
            films[n, 0] = _varied(rng, film)
    films.flags.writeable = False
    return films


def _varied(rng: np.random.Generator, film: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Every second film as it is; of the others tone, sharpness and contrast are changed."""
    if rng.random() < 0.5:
        return film
    blur = rng.uniform(0, 0.006) * len(film)
    soft = Image.fromarray(film).filter(ImageFilter.GaussianBlur(blur))
    tone = (np.asarray(soft, np.float32) / 255) ** rng.uniform(0.6, 1.7)
    low, high = rng.uniform(0, 60), rng.uniform(190, 255)
    return np.rint(low + (high - low) * tone).astype(np.uint8)


def check(candidate: Engine, reference: Engine, films: Films) -> Verdict:
    """Compare an engine with the processor's, made from the same file, on `uint8 [N, 1, S, S]`.

    At most FILMS are compared: those whose probabilities lie furthest apart. Raises EngineError
    where one of the two cannot compute.
    """
    card, precision = reference.card, candidate.precision
    limits = LIMITS[precision]
    expected = answers(reference, films)
    chosen = _spread(expected.scores[:, card.positive_index], card.threshold)
    found = answers(candidate, films[chosen])
    expected = _rows(expected, chosen)
    compared = parity.compare(expected.scores, found.scores, card)
    wrong = []
    # The other classes too: of three, two may have changed places.
    delta = _largest(found.scores - expected.scores)
    if precision in ("fp32", "fp16"):
        if delta > limits.probability:
            wrong.append(
                f"probabilities differ by up to {delta:.2g} (limit {limits.probability:g})"
            )
    elif not compared.agrees:
        wrong.append(str(compared))
    for name, theirs, ours, limit, least in (
        ("maps", expected.cam, found.cam, limits.maps, 0.0),
        ("distances", expected.ood, found.ood, limits.maps, 0.0),
        ("looks", _logits(expected.look), _logits(found.look), LOOKS, FAR),
    ):
        share = _share(theirs, ours, least)
        if share is None:
            wrong.append(f"{name} are missing or of another shape")
        elif share > limit:
            wrong.append(f"{name} differ by up to {share:.2g} of their range (limit {limit:g})")
    where = f"on {len(chosen)} films"
    return Verdict(
        passed=not wrong,
        delta=delta,
        agreement=compared.agreement,
        films=len(chosen),
        text=f"{'; '.join(wrong)} {where}" if wrong else f"parity {delta:.2g} {where}",
    )


def against_processor(
    settings: Wanted, path: Path, engine: Engine, films: Films | None = None
) -> Verdict:
    """As `check`, of an engine made from `path`, on the films that are drawn where none are given.

    Raises EngineError where the processor cannot compute the file.
    """
    # bf16 is compared with fp32 of the same file.
    precision = "fp32" if engine.precision == "bf16" else engine.precision
    reference = open_engine(
        path, batch=settings.batch, threads=settings.engine_threads, precision=precision
    )
    try:
        return check(engine, reference, golden(engine.card) if films is None else films)
    finally:
        reference.close()


def answers(engine: Engine, films: Films) -> Outputs:
    """What an engine answers on films `uint8 [N, 1, S, S]`, N > 0, in batches of its size."""
    # With its pixels, which must stay until the batch is computed.
    pending: deque[tuple[Pending, Films, int]] = deque()
    found: list[Outputs] = []

    def finish() -> None:
        batch, _, filled = pending.popleft()
        found.append(_rows(batch.result(), np.arange(filled)))

    for start in range(0, len(films), engine.batch):
        if len(pending) == engine.depth:
            finish()
        part = films[start : start + engine.batch]
        pixels = np.zeros((engine.batch, *films.shape[1:]), np.uint8)
        pixels[: len(part)] = part
        pending.append((engine.submit(pixels, len(part)), pixels, len(part)))
    while pending:
        finish()
    cams = [one.cam for one in found if one.cam is not None]
    oods = [one.ood for one in found if one.ood is not None]
    looks = [one.look for one in found if one.look is not None]
    return Outputs(
        scores=np.concatenate([one.scores for one in found]),
        cam=np.concatenate(cams) if cams else None,
        ood=np.concatenate(oods) if oods else None,
        look=np.concatenate(looks) if looks else None,
    )


def _rows(outputs: Outputs, rows: NDArray[np.int64]) -> Outputs:
    return Outputs(
        scores=outputs.scores[rows],
        cam=None if outputs.cam is None else outputs.cam[rows],
        ood=None if outputs.ood is None else outputs.ood[rows],
        look=None if outputs.look is None else outputs.look[rows],
    )


def _spread(probabilities: Floats, threshold: float) -> NDArray[np.int64]:
    """Places of at most FILMS films, as evenly over 0 to 1 as they can be had, in order."""
    clear = np.flatnonzero(np.abs(probabilities - threshold) > ON_THE_FENCE)
    if not len(clear):  # sure of nothing: all of them are as good
        clear = np.arange(len(probabilities))
    bins = np.clip((probabilities[clear] * BINS).astype(np.int64), 0, BINS - 1)
    # The first of every bin, then the second of every bin, and so on.
    turn = np.empty(len(clear), np.int64)
    for number in np.unique(bins):
        members = np.flatnonzero(bins == number)
        turn[members] = np.arange(len(members))
    order = np.argsort(turn, kind="stable")[:FILMS]
    return np.sort(clear[order])


def _logits(look: Floats | None) -> Floats | None:
    """Looks as what their sigmoid was taken of."""
    if look is None:
        return None
    with np.errstate(divide="ignore"):
        logits = np.log(look) - np.log1p(-look)
    return np.asarray(np.clip(logits, -FAR, FAR), np.float32)


def _largest(difference: Floats) -> float:
    """Largest |difference|; not a number is as far away as can be."""
    return float(np.nan_to_num(np.abs(difference), nan=1.0, posinf=1.0).max(initial=0.0))


def _share(expected: Floats | None, found: Floats | None, least: float = 0.0) -> float | None:
    """Largest difference as a share of what the expected values span; None where it has none.

    Values that span less than `least` are taken to span that.
    """
    if expected is None and found is None:
        return 0.0
    if expected is None or found is None or expected.shape != found.shape:
        return None
    span = max(float(np.ptp(expected)), least)
    difference = np.abs(found - expected)
    if not np.isfinite(difference).all():
        return float("inf")
    largest = float(difference.max(initial=0.0))
    # A constant map: what it is stands for its range.
    return largest / (span or max(1.0, float(np.abs(expected).max(initial=0.0))))
