"""The training process: it trains, exports, proves parity, and reports; it knows no database.

Started as `python -m worker.train_child` by worker.training. One line of JSON on standard input
says what to do; when standard input closes, it stops. Every report is one line of JSON on the
inherited descriptor: `dataset`, `note`, `progress`, `epoch`, and finally `done`, `failed` or
`stopped`.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer import dataset, errors, export, loop, parity, quantise
from worker import precisions
from worker.engine import open_engine
from worker.errors import WorkerError
from worker.process import die_with_parent

#: Validation films on which the engine must say what PyTorch says.
PARITY_FILMS = 64

#: Largest difference in probability that rounding explains: fp32 against fp32.
PARITY_DELTA = 1e-4


def main() -> None:
    """Do what standard input says."""
    parent_pid, report_fd = map(int, sys.argv[1:])
    die_with_parent(parent_pid)
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

        try:
            run(work, report, stop)
        except errors.Stopped:
            report("stopped")
        except (errors.TrainerError, WorkerError) as error:
            report("failed", reason=str(error))
        except (MemoryError, torch.cuda.OutOfMemoryError):
            report("failed", reason="out of memory; lower --batch-size or --size")
        except OSError as error:
            # A full disk, most likely; the reports so far and the best checkpoint are kept.
            report(
                "failed", reason=f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
            )


def run(work: dict[str, Any], report: Any, stop: threading.Event) -> None:
    """Train by `work`, export, check parity, and report where the model file is."""
    spec, folder = work["spec"], Path(work["folder"])
    fields = {f.name for f in dataclasses.fields(loop.Options)}
    options = loop.Options(
        **{k: v for k, v in spec.items() if k in fields},
        threads=work["threads"],
        resume_from=Path(work["resume_from"]) if work["resume_from"] else None,
    )
    sources = [spec["data"]] if isinstance(spec["data"], str) else spec["data"]
    data = dataset.read(
        [Path(source) for source in sources],
        val_fraction=options.val_fraction,
        seed=options.seed,
        positive=spec.get("positive"),
        patient_pattern=spec.get("patient_pattern"),
        corrections=Path(spec["corrections"]) if spec.get("corrections") else None,
    )
    report("dataset", **_described(data))

    def hear(news: loop.Progress | loop.Epoch | str) -> None:
        if isinstance(news, str):
            report("note", text=news)
        else:
            kind = "epoch" if isinstance(news, loop.Epoch) else "progress"
            report(kind, **dataclasses.asdict(news))

    trained = loop.train(options, data, folder, hear, stop.is_set, Path(work["cache"]))
    if trained.dataset.hash != data.hash:
        report("dataset", **_described(trained.dataset))
    path = folder / "model.onnx"
    card = export.export(trained, path, spec["operating_point"])
    fp32 = _parity(trained, card, path, work)
    report("note", text="making and measuring the faster precisions")
    derived = _derive(trained, path, work, stop)
    for note in derived.notes:
        report("note", text=note)
    fp32["options"]["films_per_s"] = round(derived.films_per_s, 1)
    report(
        "done",
        files={"fp32": str(path), **{name: str(file) for name, file in derived.files.items()}},
        card=json.loads(card.to_json()),
        engines=[fp32, *derived.engines],
        n_val=len(trained.dataset.of(dataset.VAL)),
    )


def _described(data: dataset.Dataset) -> dict[str, Any]:
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
    }


def _parity(trained: loop.Trained, card: Any, path: Path, work: dict[str, Any]) -> dict[str, Any]:
    """Score validation films with the engine that will serve the file, and with PyTorch.

    Raises ParityError where they differ by more than rounding; the model is then not registered.
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
    engine.close()
    return {
        **precisions.identity(engine),
        "options": {"batch": batch, "threads": work["threads"], "films": len(films)},
        "parity_delta": delta,
        "passed": True,
    }


def _derive(
    trained: loop.Trained, path: Path, work: dict[str, Any], stop: threading.Event
) -> precisions.Derived:
    """The other precisions, calibrated on training films and measured on validation films."""
    data, films = trained.dataset, trained.films
    train, val = (films.rows(data.of(split)) for split in (dataset.TRAIN, dataset.VAL))
    return precisions.derive(
        path,
        films.take(train[precisions.spread(len(train), quantise.FILMS)]),
        films.take(val[precisions.spread(len(val), parity.FILMS)]),
        batch=work["engine_batch"],
        threads=work["threads"],
        stop=stop.is_set,
    )


if __name__ == "__main__":
    # Whatever a library prints goes to the log, not between the reports.
    sys.stdout = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), line_buffering=True)
    main()
