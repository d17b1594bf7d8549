"""Small jobs: one film by `classify`, ten by `score --wait`, and where their milliseconds go.

    python -m tests.bench.small [--rounds 9] [--originals FOLDER] [--idle 20]
        [--model FILE | --model-home HOME]

Whole processes are timed, from their start to their end, in rounds that alternate between all that
is measured. `score` runs beside a real `pneumoq up` (embedded Valkey, SQLite, workers and beat)
that has scored before, with `--force`. The films are originals at their own size, phantoms where
there are none. Without a model it is a ResNet18 of random weights at 224 px in fp32: what it
answers costs the same.

What `classify` is measured against is a bare Python that imports OpenVINO without its telemetry,
reads the same model file and compiles it for the processor, with the batch and options of a job.
The first round is not counted: `classify` notes in it what it has used. The films' own work is that
of one thread: the ten are decoded from bytes in memory, and computed as one batch.

Claims: `classify` takes at most 1.5 × the bare process, and `score --wait` at most as long as
`pneumoq jobs ls`, 0.3 s, and three times the films' own work.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from db.base import database, migrate
from db.queue import jobs
from tests.bench.parts import films as film_files
from tests.bench.parts import models, report
from tests.support import processes, servers
from tests.worker import samples
from trainer import card as cards
from trainer import phantom
from trainer.card import Card
from trainer.film import rules
from worker import config
from worker.config import Settings
from worker.engine import Engine, open_engine

#: Of the bare process that `classify` may take; seconds and how often the films' own work that
#: `score` may take beside `jobs ls`.
BARE, BESIDE_S, OWN_WORK = 1.5, 0.3, 3.0

#: Films of the small job, and S of a model that is made here.
FILMS, SIZE = 10, 224

#: What is timed, as the tables call it.
BARE_NAME = "OpenVINO alone: import, read, compile"
CLASSIFY, LIST, SCORE = "classify FILM", "jobs ls", "score FOLDER --wait"
DECODING, COMPUTING = f"{FILMS} films decoded in memory", f"{FILMS} films computed in memory"

#: A stack has started, and a command ended, within so many seconds.
PATIENCE_S = 120.0

#: The bare process: its arguments are the model file and the shape of its input.
PROGRAM = """
import sys
sys.modules["openvino_telemetry"] = None
import openvino
core = openvino.Core()
model = core.read_model(sys.argv[1])
model.reshape({"image": [int(side) for side in sys.argv[2:]]})
core.compile_model(model, "CPU", {
    "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1,
})
"""

#: What the command does while its film is computed ahead, each step on top of those before it.
COMMAND = {
    "Python starts": "pass\n",
    "the command line": "import scheduler.cli, scheduler.commands.classify\n",
    "modules for the database": (
        "import sqlalchemy\n"
        "from db.registry import aliases, models\n"
        "from scheduler import engines, session\n"
        "from scheduler.submitting import precision\n"
        "from worker import engine\n"
        "from worker.schedules import fleet\n"
    ),
    "what the database says": (
        "settings, database = session.settings(), session.database()\n"
        "number = aliases.resolve(database, 'champion')['id']\n"
        "here = engines.this_machine(settings)\n"
        "pinned = precision.pin(database, number, 'auto', here).precision\n"
        "models.file_of(database, number, engine.FILE_OF[pinned])\n"
    ),
}

#: And what the process does that computes it; its arguments are the model file and the film.
AHEAD = {
    "Python starts": "import sys\n",
    "NumPy, OpenVINO": "from worker.engine import cpu, open_engine\ncpu.core()\n",
    "compiling": (
        "from pathlib import Path\nengine = open_engine(Path(sys.argv[1]), batch=1, threads=1)\n"
    ),
    "reading films": "from trainer.film import rules\nfrom worker.classify import answer, child\n",
    "the film": (
        "pixels = rules.decode(Path(sys.argv[2]).read_bytes(), engine.card.size)\n"
        "engine.submit(pixels[None, None]).result()\n"
    ),
}


class Took(NamedTuple):
    """What a process took, with those that it started."""

    seconds: float
    processor_s: float


def took(command: list[str], settings: Settings) -> Took:
    """What a process takes from its start to its end; RuntimeError where it fails."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        command, env=config.child_environment(settings), capture_output=True, text=True,
        timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr}")
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Took(seconds, used)


def pneumoq(*words: object) -> list[str]:
    """The command line of a command."""
    return [sys.executable, "-m", "scheduler", *map(str, words)]


def python(program: str, *words: object) -> list[str]:
    """The command line of a program of ours."""
    return [sys.executable, "-c", program, *map(str, words)]


@contextlib.contextmanager
def stack(settings: Settings) -> Iterator[int]:
    """`pneumoq up`, ready; its process id."""
    log = settings.home.parent / "up.log"
    process = servers.spawn(
        pneumoq("up"), log=log, dies_by=signal.SIGTERM, env=config.child_environment(settings)
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while "Ready." not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"`pneumoq up` did not start: {log.read_text()}")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def ten(originals: Path, folder: Path) -> list[Path]:
    """The films, as files."""
    folder.mkdir()
    found = sorted(p for p in originals.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    for path in found[:: max(1, len(found) // FILMS)][:FILMS]:
        shutil.copy(path, folder / path.name)
    for film in [] if found else itertools.islice(phantom.films(FILMS, 0), FILMS):
        (folder / film.name).write_bytes(film.data)
    made = sorted(folder.iterdir())
    if len(made) != FILMS:
        raise SystemExit(f"{originals} has {len(made)} JPEG films of different names, not {FILMS}")
    return made


def own_work(films: list[bytes], card: Card, engine: Engine) -> dict[str, float]:
    """Seconds of decoding the films and of computing them, in one thread."""
    pixels = np.zeros((len(films), card.channels, card.size, card.size), np.uint8)
    began = time.monotonic()
    for n, data in enumerate(films):
        rules.decode(data, card.size, card.film_rule, out=pixels[n, 0])
    decoded = time.monotonic()
    engine.submit(pixels).result()
    return {DECODING: decoded - began, COMPUTING: time.monotonic() - decoded}


def scored(settings: Settings, folder: Path) -> tuple[Took, dict[str, float]]:
    """What `score --wait` takes, and seconds of what came to pass in it by the database's clock."""
    began = time.time()
    whole = took(pneumoq("score", folder, "--force", "--wait"), settings)
    engine = database.connect(settings.database_url)
    (row,) = jobs.recent(engine, limit=1)
    engine.dispose()
    if row["predictions"] != FILMS:
        raise RuntimeError(f"{row['predictions']} of {FILMS} films were scored")
    moments = ("created_at", "started_at", "planned_at", "finished_at")
    at = [began, *(row[moment].timestamp() for moment in moments), began + whole.seconds]
    steps = ("submitted", "taken up by a worker", "listed", "scored", "told")
    return whole, {
        f"score: {step}": after - before
        for step, before, after in zip(steps, at[:-1], at[1:], strict=True)
    }


def measured(
    given: argparse.Namespace, settings: Settings, path: Path, films: list[Path]
) -> dict[str, list[Took]]:
    """What everything takes, round by round."""
    card = cards.read(path)
    engine = open_engine(path, batch=FILMS, threads=1)
    contents = [film.read_bytes() for film in films]
    shape = (settings.batch, card.channels, card.size, card.size)
    processes: dict[str, list[str]] = {
        BARE_NAME: python(PROGRAM, path, *shape),
        CLASSIFY: pneumoq("classify", films[0]),
        LIST: pneumoq("jobs", "ls"),
    }
    for kind, steps in (("command", COMMAND), ("ahead", AHEAD)):
        programs = itertools.accumulate(steps.values())
        processes |= {
            f"{kind}: {step}": python(program, path, films[0])
            for step, program in zip(steps, programs, strict=True)
        }
    found: dict[str, list[Took]] = {}
    for number in range(given.rounds + 1):
        this = {name: took(command, settings) for name, command in processes.items()}
        this[SCORE], steps_s = scored(settings, films[0].parent)
        alone = {**steps_s, **own_work(contents, card, engine)}
        this |= {name: Took(seconds, seconds) for name, seconds in alone.items()}
        if number:  # the first one warms everything
            for name, one in this.items():
                found.setdefault(name, []).append(one)
    engine.close()
    return found


def cpu_s(pid: int) -> float:
    """Processor seconds of a process and all that it has started and that runs."""
    ticks = 0
    for each in (pid, *processes.descendants([pid])):
        with contextlib.suppress(OSError):  # it ended just now
            # After the name, which may hold anything: utime is the 12th, stime the 13th.
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(") ")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def tell(found: dict[str, list[Took]], idle: float, claims: report.Claims) -> None:
    """The tables of one run, and its claims."""

    def ms(name: str) -> float:
        return 1e3 * statistics.median(one.seconds for one in found[name])

    def row(name: str) -> tuple[str, float, float, float, float]:
        walls = [1e3 * one.seconds for one in found[name]]
        used = 1e3 * statistics.median(one.processor_s for one in found[name])
        return name, statistics.median(walls), min(walls), max(walls), used

    names = (BARE_NAME, CLASSIFY, LIST, SCORE, DECODING, COMPUTING)
    report.table(("ms", "median", "least", "most", "processor"), map(row, names))
    for kind, what in (("command", "of classify's command"), ("ahead", "of the process ahead")):
        steps = [name for name in found if name.startswith(f"{kind}: ")]
        passed = [0.0, *map(ms, steps)]
        report.table(
            (f"ms {what}", "median"),
            [
                (step.partition(": ")[2], after - before)
                for step, before, after in zip(steps, passed[:-1], passed[1:], strict=True)
            ],
        )
    steps = [name for name in found if name.startswith("score: ")]
    report.table(
        ("ms of score --wait until it is", "median", "least", "most"),
        [(name.partition(": ")[2], *row(name)[1:4]) for name in steps],
    )
    print(f"the stack takes {idle:.2%} of a core while nothing is asked of it\n")
    ratio = statistics.median(
        ours.seconds / bare.seconds
        for ours, bare in zip(found[CLASSIFY], found[BARE_NAME], strict=True)
    )
    claims.check(ratio <= BARE, f"classify takes at most {BARE} x the bare process",
                 f"{ratio:.2f} x ({ms(CLASSIFY):.0f} to {ms(BARE_NAME):.0f} ms)")  # fmt: skip
    work = ms(DECODING) + ms(COMPUTING)
    allowed = ms(LIST) + 1e3 * BESIDE_S + OWN_WORK * work
    claims.check(
        ms(SCORE) <= allowed,
        f"score --wait takes at most jobs ls, {BESIDE_S} s and {OWN_WORK:g} x the films' own work",
        f"{ms(SCORE):.0f} ms (allowed {allowed:.0f}: {ms(LIST):.0f} + {1e3 * BESIDE_S:.0f} + "
        f"{OWN_WORK:g} x {work:.0f})",
    )


def main() -> int:
    """Run from the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--originals", type=Path, default=film_files.ORIGINALS)
    parser.add_argument("--idle", type=float, default=20.0, help="seconds that an idle stack rests")
    models.add_options(parser)
    parser.add_argument("--quick", action="store_true", help="3 rounds")
    given = parser.parse_args()
    given.rounds = min(given.rounds, 3) if given.quick else given.rounds
    claims = report.Claims()
    # As in an installation, whose modules are compiled once.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="pneumoq-") as name:
        folder = Path(name)
        films = ten(given.originals, folder / "films")
        if given.model is None and given.model_home is None:
            path = folder / "random.onnx"
            samples.write_model(path, ("NORMAL", "PNEUMONIA"), 0, SIZE, samples.WIDE)
        else:
            path = models.find(given, folder).file("fp32")
        settings = config.load({"PNEUMOQ_HOME": str(folder / "home")})
        settings.home.mkdir(mode=0o700)
        engine = database.connect(settings.database_url)
        migrate.upgrade(engine)
        samples.register(engine, path)
        engine.dispose()
        with stack(settings) as up:
            found = measured(given, settings, path, films)
            began = cpu_s(up)
            time.sleep(given.idle)
            tell(found, (cpu_s(up) - began) / given.idle, claims)
    return claims.end()


if __name__ == "__main__":
    sys.exit(main())
