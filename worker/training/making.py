"""Making: from films that were looked at to a model's files: trained, exported, measured, judged.

The second half of what worker.training.child does, and all of it that needs torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainer import atomic, errors
from trainer.card import Group
from trainer.data import dataset
from trainer.data.decoding import Decoder
from trainer.judging import crossfit, figures, parity
from trainer.learning import loop
from trainer.modelfile import export, quantise
from trainer.network import device as devices
from trainer.shift import words
from worker.engine import gate, open_engine
from worker.engine.base import identity
from worker.training import precisions, reference
from worker.training.night_child import Films, Night

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.learning.scalars import Scalars

#: Validation films on which the engine must say what PyTorch says.
PARITY_FILMS = 64

#: Largest difference in probability that rounding explains: fp32 against fp32.
PARITY_DELTA = 1e-4

OUT_OF_MEMORY = "out of memory; lower --batch-size or --size"

#: The same of a GPU, which others use too: by its name and what is free there now, in MiB.
GPU_OUT_OF_MEMORY = (
    "out of memory on {name}, where {free_mb} MiB are free now; lower --batch-size or --size, or "
    "end what else uses its memory"
)


def make(
    work: dict[str, Any],
    options: loop.Options,
    found: Films,
    data: dataset.Dataset,
    *,
    night: Night | None,
    decoder: Decoder,
    report: Any,
    describe: Callable[[dataset.Dataset], None],
    stop: threading.Event,
) -> None:
    """Train on `data`, export, check parity, and report where the model's files are.

    `describe` reports the dataset once more, where training does without some of its films.
    """
    try:
        _make(work, options, found, data, night, decoder, report, describe, stop)
    except (MemoryError, RuntimeError) as error:
        if not devices.out_of_memory(error):
            raise
        raise errors.TrainerError(_short_of_memory()) from error


def _short_of_memory() -> str:
    """What to say when memory did not suffice."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has no hint
        return OUT_OF_MEMORY
    device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.empty_cache()  # ours would count as used
    free_mb = devices.free_bytes(device) >> 20
    return GPU_OUT_OF_MEMORY.format(name=devices.name(device), free_mb=free_mb)


def _make(
    work: dict[str, Any],
    options: loop.Options,
    found: Films,
    data: dataset.Dataset,
    night: Night | None,
    decoder: Decoder,
    report: Any,
    describe: Callable[[dataset.Dataset], None],
    stop: threading.Event,
) -> None:
    spec, folder = work["spec"], Path(work["folder"])
    model_dir = Path(spec["model_dir"]) if spec.get("model_dir") else None
    # Beside the attempts, of which a later one goes on with the curves.
    scalars = _scalars((model_dir or folder.parent) / "tensorboard", report)

    def on_event(news: loop.Epoch | loop.Progress | loop.Saved | loop.Without | str) -> None:
        if isinstance(news, str):
            report("note", text=news)
            return
        if isinstance(news, loop.Epoch) and scalars is not None:
            scalars.add(news)
        report(type(news).__name__.lower(), **dataclasses.asdict(news))

    def train(options: loop.Options) -> loop.Trained:
        return loop.train(
            options, data, folder, on_event, stop.is_set, Path(work["cache"]), decoder=decoder
        )

    try:
        trained = train(options)
    except errors.CheckpointError as error:
        if night is None or options.resume_from is None:
            raise
        # Films come in at night too, and nobody is there to say what is to become of the rest.
        report("note", text=f"what an earlier attempt left is not gone on from: {error}")
        options = dataclasses.replace(options, resume_from=None)
        trained = train(options)
    # Films and moments are gone. On a Jetson, whose GPU uses the processor's memory, the engines of
    # the gates need what they took. Without a GPU it does nothing.
    torch.cuda.empty_cache()
    if trained.dataset.hash != data.hash:
        describe(trained.dataset)
    path = folder / "model.onnx"
    report("note", text="calibrating, and dressing held-out films as others look")
    card = export.export(trained, path, spec["operating_point"], stop=stop.is_set)
    outcome = figures.goal(spec["operating_point"], card.metrics)
    if outcome and card.basis.startswith(crossfit.CROSS_FITTED):
        report("note", text=outcome)
    for group in card.looks:
        report("note", text=looks_alike(group))
    if card.shift is not None:
        report("note", text=f"held-out films dressed: {'; '.join(words.sentences(card.shift))}")
    fp32, measured = _parity(trained, card, path, work, stop)
    report("note", text="making and measuring the faster precisions")
    drawn = None if night is None else gate.golden(card)
    derived = _derive(trained, path, work, stop, drawn)
    for note in derived.notes:
        report("note", text=note)
    fp32["options"]["films_per_s"] = round(derived.films_per_s, 1)
    judged = None
    if night is not None:
        measured["golden"] |= {p: reference.rounded(s) for p, s in derived.of_drawn.items()}
        report("note", text="comparing the model with the champion on the frozen films")
        judged = night.judge(
            dataclasses.replace(found, doubt=trained.dataset.doubt), path, positive=card.positive,
            batch=work["engine_batch"], threads=work["threads"], decoder=decoder,
        )  # fmt: skip
    files = {"fp32": path, **derived.files}
    if model_dir is not None:
        _deliver([*files.values(), folder / loop.BEST], card.labels, model_dir)
        report("note", text="the model's files are in --model-dir too")
    if scalars is not None:
        scalars.close()
    report(
        "done",
        files={name: str(file) for name, file in files.items()},
        card=json.loads(card.to_json()),
        engines=[fp32, *derived.engines],
        judged=judged,
        n_val=len(trained.dataset.of(dataset.VAL)),
        reference=measured,
    )


def looks_alike(group: Group) -> str:
    """That training films look alike and are of one class, and what comes of it."""
    counts = ", ".join(f"{n:,} {label}" for label, n in group.films.items() if n)
    return (
        f"films with {group.what} are nearly all {group.label} ({counts}): the network may have "
        "learned that in place of the disease; scoring marks films that look so"
    )


def _scalars(folder: Path, report: Any) -> Scalars | None:
    """Where TensorBoard's curves go; None where what writes them is not installed."""
    try:
        from trainer.learning.scalars import Scalars
    except ImportError:
        report("note", text="no curves for TensorBoard: pip install tensorboardX")
        return None
    return Scalars(folder)


def _deliver(files: Sequence[Path], labels: Sequence[str], model_dir: Path) -> None:
    """Copy a model's files and its labels.txt where the user wants them, each in one step."""
    with contextlib.ExitStack() as stack:  # none is replaced before all are there
        for file in files:
            shutil.copy(file, stack.enter_context(atomic.replacing(model_dir / file.name)))
        listed = stack.enter_context(atomic.replacing(model_dir / "labels.txt"))
        listed.write_text("".join(f"{label}\n" for label in labels))


def _parity(
    trained: loop.Trained, card: Any, path: Path, work: dict[str, Any], stop: threading.Event
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Score validation films with the engine that will serve the file, and with PyTorch.

    Returns the engine's row and the model's reference. Raises ParityError where the two differ by
    more than rounding; the model is then not registered.
    """
    val = trained.films.rows(trained.dataset.of(dataset.VAL))
    films = trained.films.take(val[precisions.spread(len(val), PARITY_FILMS)])
    expected = export.reference_scores(trained, card, films.reshape(-1, card.size, card.size))
    batch = work["engine_batch"]
    engine = open_engine(path, batch=batch, threads=work["threads"])
    found, _ = precisions.scores(engine, films)
    delta = float(np.abs(found - expected).max())
    if not delta <= PARITY_DELTA:
        raise errors.ParityError(
            f"{engine.backend} and PyTorch differ by {delta:.2g} in probability on "
            f"{len(films)} films, where {PARITY_DELTA:g} is rounding; the model was not registered"
        )
    measured = reference.measure(trained, engine, stop.is_set, golden=bool(work.get("night")))
    engine.close()
    row = {
        **identity(engine),
        "options": {"batch": batch, "threads": work["threads"], "films": len(films)},
        "parity_delta": delta,
        "passed": True,
    }
    return row, measured


def _derive(
    trained: loop.Trained,
    path: Path,
    work: dict[str, Any],
    stop: threading.Event,
    drawn: NDArray[np.uint8] | None,
) -> precisions.Derived:
    """The other precisions, calibrated on training films and measured on validation films."""
    data, films = trained.dataset, trained.films
    train, val = (films.rows(data.of(split)) for split in (dataset.TRAIN, dataset.VAL))
    return precisions.derive(
        path,
        films.each(train[precisions.spread(len(train), quantise.FILMS)]),
        films.each(val[precisions.spread(len(val), parity.FILMS)]),
        batch=work["engine_batch"],
        threads=work["threads"],
        stop=stop.is_set,
        drawn=drawn,
    )
