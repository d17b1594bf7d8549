"""The judge: what became of each film of a job is held against what is known of that film."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from tests.faults.chaos.films import Outcome
from tests.support.site import Site

#: So many of a job's wrong films are told apart, the others only counted.
SHOWN = 12

_OUTCOMES = """
    SELECT item_no, shard_no, name, 'prediction' AS kind, '' AS code, probability, label_no
    FROM predictions WHERE job_id = :job
    UNION ALL
    SELECT item_no, shard_no, name, 'refusal', code, 0, 0 FROM refusals WHERE job_id = :job
    UNION ALL
    SELECT item_no, shard_no, name, 'error', code, 0, 0 FROM item_errors WHERE job_id = :job
"""


def wrong(
    here: Site, job_id: int, expected: Mapping[str, Outcome], labels: tuple[str, ...]
) -> list[str]:
    """All that is wrong with a job that is to be over, in words; nothing where all is right.

    `expected` is by film's file name, and `labels` are the model's.
    """
    said = []
    state = here.state(job_id)
    broken = any(outcome.kind == "error" for outcome in expected.values())
    right = "completed_with_errors" if broken else "completed"
    if state != right:
        reason = here.rows("SELECT reason FROM jobs WHERE id = :job", job=job_id)[0].reason
        said.append(f"it is {state}, not {right}: {reason}")
    ends = here.events(job_id, right)
    if ends != 1:
        said.append(f"it was ended {ends} times")
    items = here.rows("SELECT planned_items AS n FROM jobs WHERE id = :job", job=job_id)[0].n
    if items != len(expected):
        said.append(f"{items} films were listed, not {len(expected)}")
    found: dict[str, list[tuple[Outcome, int]]] = {}
    numbers: Counter[int] = Counter()
    for row in here.rows(_OUTCOMES, job=job_id):
        outcome = Outcome(
            kind=row.kind,
            code=row.code,
            probability=row.probability,
            label=labels[row.label_no] if row.kind == "prediction" else "",
        )
        found.setdefault(row.name.rpartition("/")[2], []).append((outcome, row.shard_no))
        numbers[row.item_no] += 1
    twice = sorted(n for n, times in numbers.items() if times > 1)
    if twice:
        said.append(f"items with more than one outcome: {twice[:SHOWN]} ({len(twice)} in all)")
    films = []
    for name in sorted(expected.keys() | found.keys()):
        outcomes = found.get(name, [])
        if name not in expected:
            films.append(f"{name}: there is no such film, and it has an outcome")
        elif not outcomes:
            films.append(f"{name}: lost; it should be {expected[name]}")
        elif len(outcomes) > 1:
            films.append(f"{name}: {' and '.join(str(o) for o, _ in outcomes)}")
        elif not outcomes[0][0].same(expected[name]):
            outcome, shard = outcomes[0]
            films.append(
                f"{name}: {outcome}; it should be {expected[name]} ({_shard(here, job_id, shard)})"
            )
    said += films[:SHOWN]
    if len(films) > SHOWN:
        said.append(f"… {len(films)} films are wrong in all")
    return [f"job {job_id}: {what}" for what in said]


def _shard(here: Site, job_id: int, shard_no: int) -> str:
    row = here.rows(
        "SELECT state, attempts, worker_id, last_error FROM shards "
        "WHERE job_id = :job AND shard_no = :shard",
        job=job_id, shard=shard_no,
    )[0]  # fmt: skip
    return (
        f"shard {shard_no}, {row.state} at attempt {row.attempts} by {row.worker_id}"
        + (f": {row.last_error}" if row.last_error else "")
    )  # fmt: skip


def open_work(here: Site) -> list[str]:
    """What is not over, and why, as far as the database says it."""
    said = []
    for job in here.rows(
        "SELECT id, state, lease_until, not_before, attempts, worker_id, reason FROM jobs "
        "WHERE finished_at IS NULL ORDER BY id"
    ):
        said.append(f"open: {dict(job._mapping)}")
        for shard in here.rows(
            "SELECT shard_no, source_no, n_items, state, attempts, lease_until, not_before, "
            "worker_id, last_error, unread FROM shards "
            "WHERE job_id = :job AND finished_at IS NULL ORDER BY shard_no LIMIT 5",
            job=job.id,
        ):
            said.append(f"open: job {job.id}: {dict(shard._mapping)}")
        said += [
            f"open: job {job.id}: source {row.source_no} since {row.trouble_at}: {row.trouble}"
            for row in here.rows(
                "SELECT source_no, trouble, trouble_at FROM sources "
                "WHERE job_id = :job AND trouble_at IS NOT NULL",
                job=job.id,
            )
        ]
        said += [
            f"open: job {job.id}: {row.at} {row.event} by {row.who}: {row.detail}"
            for row in here.rows(
                "SELECT at, event, who, detail FROM job_events WHERE job_id = :job "
                "ORDER BY id DESC LIMIT 6",
                job=job.id,
            )
        ]
    return said
