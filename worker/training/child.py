"""The training process: it looks at films, has a model made of them (`making`), and reports.

It knows no database.

Started as `python -m worker.training.child` by worker.training.process. One line of JSON on
standard input says what to do; when standard input closes, it stops. Every report is one line of
JSON on the inherited descriptor: `dataset`, `note`, `without`, `progress`, `saved`, `epoch`, and
finally `done`, `failed` or `stopped`. What it reports names no film, save `without` and the `names`
of a dataset, which stay on this machine.
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

from trainer import errors
from trainer.data import classes, dataset, gathering
from trainer.data.decoding import Decoder
from trainer.data.labelled import FIRST_NAMING
from trainer.data.learned import NOTHING, Learned
from trainer.data.names import Names
from trainer.data.whose import Whose
from trainer.learning import files
from trainer.learning.options import Options
from worker import logs
from worker.decoding import labelled
from worker.decoding.labelled import Limits
from worker.errors import WorkerError
from worker.machine.process import die_with_parent, renounce_privileges
from worker.training import kept_films, night_child

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
            best = Path(work["folder"]) / files.BEST
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
        except MemoryError:
            fail("out of memory while the films were looked at; end what else uses memory")
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


def run(work: dict[str, Any], report: Any, stop: threading.Event) -> None:
    """Look at the films that `work` names, then have a model made of them and report it."""
    spec, folder = work["spec"], Path(work["folder"])
    if spec.get("model_dir"):
        Path(spec["model_dir"]).mkdir(parents=True, exist_ok=True)
    fields = {f.name for f in dataclasses.fields(Options)}
    options = Options(
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
        # Names are compared with a hash of each, of which nothing is to be kept.
        start=Learned.read(Path(work["learned"]), Names(key=names.key))
        if work.get("learned")
        else NOTHING,
    )
    report("note", text=classes.meaning(data.labels, data.positive))

    def describe(data: dataset.Dataset) -> None:
        report("dataset", **_described(data, names))

    describe(data)
    # It loads torch: seconds and memory of which a night without anything to train has no use.
    from worker.training import making

    making.make(
        work, options, found, data, night=night, decoder=decoder, report=report,
        describe=describe, stop=stop,
    )  # fmt: skip


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


if __name__ == "__main__":
    # Whatever a library prints goes to the log, not between the reports.
    sys.stdout = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), line_buffering=True)
    main()
