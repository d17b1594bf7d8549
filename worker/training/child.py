"""The training process: it trains, exports, checks parity, and reports; it knows no database.

Started as `python -m worker.training.child` by worker.training.process. One line of JSON on
standard input says what to do; when standard input closes, it stops. Every report is one line of
JSON on the inherited descriptor: `dataset`, `note`, `without`, `progress`, `saved`, `epoch`, and
finally `done`, `failed` or `stopped`. What it reports names no film, save `without` and the `names`
of a dataset, which stay on this machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainer import atomic, errors
from trainer.card import Group
from trainer.data import classes, dataset, gathering
from trainer.data.decoding import Decoder
from trainer.data.labelled import FIRST_NAMING
from trainer.data.names import Names
from trainer.data.whose import Whose
from trainer.judging import crossfit, figures, parity
from trainer.learning import loop
from trainer.modelfile import export, quantise
from trainer.network import device as devices
from trainer.shift import words
from worker import logs
from worker.decoding import labelled
from worker.decoding.labelled import Limits
from worker.engine import gate, open_engine
from worker.engine.base import identity
from worker.errors import WorkerError
from worker.machine.process import die_with_parent, renounce_privileges
from worker.training import kept_films, night_child, precisions, reference

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


#: Of a job that was made by release 0.2.0 or before, or by a schedule that was.
OF_BEFORE = (
    "this was made by an older release and goes on by its rules: the patient is read from a film's "
    "name as it was then, without DICOM's PatientID, folders of patients, or names of MIMIC, BIDS "
    "and DICOMDIR, and the disease is PNEUMONIA or the last class where none is named; submit it, "
    "or add its schedule, anew to have those of today"
)


def main() -> None:
    """Do the work that standard input names."""
    parent_pid, report_fd = map(int, sys.argv[1:])
    die_with_parent(parent_pid)
    renounce_privileges()
    logs.at_the_end()
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)  # the parent's to handle: it closes standard input
    work = json.loads(sys.stdin.readline())
    stop = threading.Event()

    def watch() -> None:
        # Not through sys.stdin: its lock would be held for good.
        while os.read(0, 1):
            pass
        stop.set()

    threading.Thread(target=watch, daemon=True).start()
    with os.fdopen(report_fd, "w", buffering=1) as stream:

        def report(event: str, **values: Any) -> None:
            stream.write(json.dumps({"event": event, **values}) + "\n")

        def fail(reason: str) -> None:
            best = Path(work["folder"]) / loop.BEST
            kept = f"; the best epoch's weights are kept in {best}" if best.is_file() else ""
            report("failed", reason=reason + kept)

        try:
            run(work, report, stop)
        except errors.Stopped:
            report("stopped")
        except night_child.RunSkipped as skipped:
            report(skipped.event, reason=skipped.reason, told=skipped.told)
        except errors.DatasetError as error:
            fail(error.shareable)
        except (errors.TrainerError, WorkerError) as error:
            fail(str(error))
        except (MemoryError, RuntimeError) as error:
            if not devices.out_of_memory(error):
                raise
            fail(_short_of_memory())
        except OSError as error:
            # A full disk, most likely. A path that is none of ours may be a film's.
            fail(f"{error.strerror or type(error).__name__}: {_ours(error, work)}".rstrip(": "))


def _ours(error: OSError, work: dict[str, Any]) -> str:
    """The path that the system speaks of, where it is of what is written here; else nothing."""
    written = [Path(work["folder"]).parent, Path(work["cache"])]
    if work["spec"].get("model_dir"):
        written.append(Path(work["spec"]["model_dir"]))
    path = Path(os.fsdecode(error.filename or ""))
    return str(path) if any(path.is_relative_to(folder) for folder in written) else ""


def _short_of_memory() -> str:
    """What to say when memory did not suffice."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has no hint
        return OUT_OF_MEMORY
    device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.empty_cache()  # ours would count as used
    free_mb = devices.free_bytes(device) >> 20
    return GPU_OUT_OF_MEMORY.format(name=devices.name(device), free_mb=free_mb)


def run(work: dict[str, Any], report: Any, stop: threading.Event) -> None:
    """Train by `work`, export, check parity, and report where the model file is."""
    spec, folder = work["spec"], Path(work["folder"])
    model_dir = Path(spec["model_dir"]) if spec.get("model_dir") else None
    if model_dir is not None:
        model_dir.mkdir(parents=True, exist_ok=True)
    # Beside the attempts, of which a later one goes on with the curves.
    scalars = _scalars((model_dir or folder.parent) / "tensorboard", report)
    fields = {f.name for f in dataclasses.fields(loop.Options)}
    options = loop.Options(
        # A job of release 0.1.0 says nothing of it, and is trained as it was then.
        **{"defend": False} | {k: v for k, v in spec.items() if k in fields},
        threads=work["threads"],
        resume_from=Path(work["resume_from"]) if work["resume_from"] else None,
    )
    names = Names(key=bytes.fromhex(work["names_key"]), everything=bool(spec.get("hash_names")))
    night = night_child.Night(Path(work["night"]), names) if work.get("night") else None
    naming, pattern = spec.get("naming"), spec.get("patient_pattern")
    said = Whose(naming=naming or FIRST_NAMING, pattern=pattern, key=lambda: names.key)
    if naming is None:
        report("note", text=OF_BEFORE)
    decoder = labelled.processes(
        Limits(
            decoders=options.workers,
            deadline_s=work["film_deadline_s"],
            limit_mb=work["film_memory_mb"],
        )
    )
    found = None
    if options.resume_from is not None and (night is None or night.goes_on):
        found = kept_films.kept(options.resume_from)
    if found is None:
        found = _gathered(spec, said, night, decoder, options.seed, report)
    else:
        began = "the night on which it began" if night else "before; newer ones are not among them"
        report("note", text=f"going on with the films of {began}")
    if night is None or night.keeps_films:
        kept_films.keep(folder, found)
    data = dataset.settle(
        found.gathered,
        val_fraction=options.val_fraction,
        seed=options.seed,
        positive=found.positive,
    )
    report("note", text=classes.meaning(data.labels, data.positive))
    report("dataset", **_described(data, names))

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
        report("dataset", **_described(trained.dataset, names))
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
            found, path, positive=card.positive, batch=work["engine_batch"],
            threads=work["threads"], decoder=decoder,
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


def _gathered(
    spec: dict[str, Any],
    said: Whose,
    night: night_child.Night | None,
    decoder: Decoder,
    seed: int,
    report: Any,
) -> night_child.Films:
    """The labelled films, and those of them that a schedule's models are compared on."""
    sources = [spec["data"]] if isinstance(spec["data"], str) else spec["data"]
    paths = [Path(source) for source in sources]
    corrections = Path(spec["corrections"]) if spec.get("corrections") else None
    if night is None:
        gathered = gathering.gather(paths, said=said, corrections=corrections)
        positive = classes.disease(gathered.labels, spec.get("positive"), said.naming)
        dataset.check_patients(gathered)
        return night_child.Films(gathered=gathered, positive=positive)
    return night.look(
        paths,
        positive=spec.get("positive"),
        said=said,
        corrections=corrections,
        decoder=decoder,
        seed=seed,
        report=report,
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


def _described(data: dataset.Dataset, names: Names) -> dict[str, Any]:
    """What is kept of a dataset; `names` are those that the hashes in its manifest stand for."""
    data = dataclasses.replace(data, films=names.of(data.films))
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "manifest.csv"
        data.write_csv(manifest)
        text = manifest.read_text(encoding="utf-8", errors="surrogateescape")
    train, val = data.of(dataset.TRAIN), data.of(dataset.VAL)
    counts = {name: data.count(dataset.TRAIN)[name] + data.count(dataset.VAL)[name]
              for name in data.labels}  # fmt: skip
    return {
        "digest": data.hash,
        "root": str(data.root),
        "n_train": len(train),
        "n_val": len(val),
        "n_patients": len({film.patient for film in (*train, *val)}),
        "classes": counts,
        "notes": list(data.notes),
        "manifest_csv": text,
        "names": names.made,
    }


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


if __name__ == "__main__":
    # Whatever a library prints goes to the log, not between the reports.
    sys.stdout = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), line_buffering=True)
    main()
