"""`score --dry-run`: what a job would find, refuse, take and need, without submitting it.

Everything is listed; of the items a sample is read and really decoded, by decoder processes that
may crash without harm, and the engine is timed for a moment. What is said of all items is therefore
an estimate, and what is said of the sample a fact.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa

from db.base import database, workers
from db.queue import reuse
from scheduler.measure import stages, survey
from scheduler.measure.survey import Survey
from scheduler.show import output
from worker.config import Settings
from worker.decoding.pool import Decoded
from worker.engine import Engine, speed
from worker.scoring import serving

#: Items that are decoded, shared among the sources; each source gives at least this many.
SAMPLE, LEAST = 48, 4

#: The engine is timed for about this many seconds.
TIMED_S = 1.5

#: Bytes that a prediction takes in the database beside its name, with its share of what goes with
#: it: content, rollups, a map for every fourth film (89 and 295 over 262,144 rows: measured by
#: `python -m tests.bench.rows`), and 15 in the listing.
ROW_BYTES = {"sqlite": 105, "postgresql": 310}

#: Kinds of ending that are told apart; the rest is summed up.
ENDINGS = 8


def rehearse(
    settings: Settings,
    engine: sa.Engine,
    model: sa.RowMapping,
    precision: str,
    spec: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    wanted: str | None = None,
    as_json: bool,
) -> None:
    """Print what a job with this model, spec and sources (columns of `sources`) would come to.

    `wanted` is its `jobs.engine`. Raises ArchiveError where a source cannot be listed, EngineError
    where the model does not run.
    """
    each = max(LEAST, SAMPLE // len(rows))
    surveys = [survey.look(row, each) for row in rows]
    copies = [_copy_of(engine, row, model["id"], precision, spec) for row in rows]
    report = _count(surveys, copies)
    with (
        tempfile.TemporaryDirectory(prefix="pneumoq-") as folder,
        serving.opened(settings, engine, model["id"], precision) as network,
    ):
        report |= _try_out(
            settings, engine, network, surveys, copies, model["id"], precision,
            spec, Path(folder),
        )  # fmt: skip
    report |= _disk(settings, engine, surveys, report)
    report |= {
        "model_id": model["id"],
        "model": model["name"],
        "precision": precision,
        "workers_alive": len(workers.serving(engine, wanted)),
    }
    if as_json:
        output.emit(report, as_json=True)
    else:
        _print(report)


def _copy_of(
    engine: sa.Engine,
    row: Mapping[str, Any],
    model_id: int,
    precision: str,
    spec: Mapping[str, Any],
) -> int | None:
    """The job whose outcomes would be taken over for this source, because it is unchanged."""
    if row["content_id"] is None or spec.get("force"):
        return None
    with database.reading(engine) as connection:
        found = reuse.find_copy(connection, row["content_id"], model_id, precision, spec)
    return None if found is None else found[0]


def _count(surveys: Sequence[Survey], copies: Sequence[int | None]) -> dict[str, Any]:
    endings: Counter[str] = Counter()
    passed_over: Counter[str] = Counter()
    for found in surveys:
        endings.update(found.endings)
        passed_over.update(found.passed_over)
    return {
        "items": sum(found.items for found in surveys),
        "items_by_ending": dict(endings.most_common()),
        "bytes": sum(found.stored_bytes for found in surveys),
        "passed_over": dict(passed_over.most_common()),
        "sources": [
            {
                "uri": found.row["uri"],
                "kind": found.row["kind"],
                "items": found.items,
                "unchanged_since_job": copy,
            }
            for found, copy in zip(surveys, copies, strict=True)
        ],
    }


def _try_out(
    settings: Settings,
    engine: sa.Engine,
    network: Engine,
    surveys: Sequence[Survey],
    copies: Sequence[int | None],
    model_id: int,
    precision: str,
    spec: Mapping[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """Decode the samples, look their contents up, time the engine; scale to all items."""
    computed_per_s = speed.rate(network, TIMED_S)
    refused_items = broken_items = fresh_items = stored_items = decode_s = 0.0
    sampled = known = 0
    refusals: Counter[str] = Counter()
    broken: Counter[str] = Counter()
    for number, (found, copy) in enumerate(zip(surveys, copies, strict=True)):
        films = survey.located(found, folder / f"{number}.zip")
        if not films:
            continue
        came: list[Decoded] = []
        decoding = stages.Decoding(settings, network.card, films, spec.get("accept") or ())
        try:
            decoding.run(len(films), done=came.append)  # decoders start, and files are cached
            film_s = decoding.run(len(films)) / len(films)
        finally:
            decoding.close()
        weight = found.items / len(films)
        failures = [decoded.failure for decoded in came if decoded.failure is not None]
        refusals.update(code for code, _, refused in failures if refused)
        broken.update(code for code, _, refused in failures if not refused)
        refused_items += weight * sum(refused for _, _, refused in failures)
        broken_items += weight * sum(not refused for _, _, refused in failures)
        sampled += len(films)
        if copy is not None:
            known += len(films) - len(failures)
            stored_items += weight * (len(films) - len(failures))
            continue
        contents = [decoded.content for decoded in came if decoded.content is not None]
        mine = 0 if spec.get("force") else _known(engine, contents, model_id, precision)
        known += mine
        stored_items += weight * mine
        fresh = found.items * (1 - mine / len(films))
        fresh_items += fresh
        decode_s += fresh * film_s
    items = sum(found.items for found in surveys)
    refused, in_error = round(refused_items), round(broken_items)
    compute_s = fresh_items / computed_per_s
    # Where both stages share the processor, a film takes its time of each.
    shared = network.backend in stages.ON_CPU
    return {
        "sampled": sampled,
        "sample_refusals": dict(refusals.most_common()),
        "sample_errors": dict(broken.most_common()),
        "sample_known": known,
        "expected_refused": refused,
        "expected_errors": in_error,
        "expected_predictions": max(0, items - refused - in_error),
        "expected_from_store": round(stored_items),
        "decoded_per_s": fresh_items / decode_s if decode_s else None,
        "computed_per_s": computed_per_s,
        "expected_seconds": decode_s + compute_s if shared else max(decode_s, compute_s),
    }


def _known(engine: sa.Engine, contents: list[bytes], model_id: int, precision: str) -> int:
    """How many of these contents have been scored before."""
    with database.reading(engine) as connection:
        if not reuse.any_known(connection, model_id, precision):
            return 0
        known = reuse.known(connection, contents, model_id, precision)
    return sum(content in known for content in contents)


def _disk(
    settings: Settings, engine: sa.Engine, surveys: Sequence[Survey], report: Mapping[str, Any]
) -> dict[str, Any]:
    """Bytes that the rows will take, and those that are free where the database is."""
    names = sum(found.name_characters for found in surveys)
    needed = report["items"] * ROW_BYTES[engine.dialect.name] + names
    file = settings.database_path
    free = None if file is None else shutil.disk_usage(file.parent).free
    return {"database_bytes_needed": needed, "database_bytes_free": free}


def _print(report: Mapping[str, Any]) -> None:
    output.table(
        [
            {
                "items": source["items"],
                "kind": source["kind"],
                "uri": source["uri"],
                "unchanged since": f"job {source['unchanged_since_job']}"
                if source["unchanged_since_job"]
                else "",
            }
            for source in report["sources"]
        ],
        ["items", "kind", "uri", "unchanged since"],
    )
    click.echo()
    sampled = report["sampled"]
    computed, decoded = report["computed_per_s"], report["decoded_per_s"]
    seconds = max(1.0, report["expected_seconds"])
    speeds = f"inference {computed:,.0f}/s" + (f", decoding {decoded:,.0f}/s" if decoded else "")
    free = report["database_bytes_free"]
    output.facts(
        {
            "items": f"{report['items']:,}{_kinds(report['items_by_ending'])}",
            "passed over": _sum(report["passed_over"]),
            "sample": f"{sampled:,} items, really decoded",
            "  refused": _sum(report["sample_refusals"]),
            "  broken": _sum(report["sample_errors"]),
            "  scored before": f"{report['sample_known']:,}",
            "expected": f"about {report['expected_predictions']:,} predictions, "
            f"{report['expected_refused']:,} refused, {report['expected_errors']:,} errors",
            "from the store": f"about {report['expected_from_store']:,}",
            "time": f"about {output.seconds(seconds)} on this machine alone "
            f"({speeds}, measured now)",
            "disk": f"about {_bytes(report['database_bytes_needed'])} in the database"
            + ("" if free is None else f", {_bytes(free)} free"),
            "model": f"{report['model_id']} ({report['model']}) in {report['precision']}",
            "workers": f"{report['workers_alive']} that could score it",
        }
    )
    if not report["items"]:
        click.echo("The sources hold no files to be scored: the job would fail.", err=True)
    if free is not None and report["database_bytes_needed"] > free:
        click.echo(
            "The disk of the database is too small: free some, or move the database.", err=True
        )
    click.echo("Nothing was submitted; leave --dry-run out to do it.")


def _kinds(endings: Mapping[str, int]) -> str:
    if not endings:
        return ""
    named = [f"{n:,} {ending}" for ending, n in list(endings.items())[:ENDINGS]]
    rest = sum(list(endings.values())[ENDINGS:])
    return f" ({', '.join(named + ([f'{rest:,} others'] if rest else []))})"


def _sum(counts: Mapping[str, int]) -> str:
    return f"{sum(counts.values()):,}{_kinds(counts)}"


def _bytes(count: int) -> str:
    """`1.2 GB`."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
