"""`pneumoq models measure`: which precision of a model this machine computes fastest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import click

from db.registry import aliases, rates
from scheduler import engines, errors, session
from scheduler.commands.models import build
from scheduler.show import display as displays
from scheduler.show import output

COLUMNS = ("precision", "films_per_s", "ratio", "interval", "auto", "batch", "rounds", "measured")


@click.command("measure")
@click.argument("model")
@engines.here
@output.json_option
def command(model: str, asked_engine: str | None, as_json: bool) -> None:
    """Measure a model's precisions on this machine, and choose the fastest for `auto`.

    Each that passed its gate is measured in turns with the one that is `auto` on machines of this
    kind, which gives way only where another one is more than 1.10 times as fast beyond doubt (95 %
    interval). Workers do so themselves, while idle, for a model that has an alias and no stored
    predictions, and in a night before a promotion. A model that has stored predictions keeps their
    precision, unless --precision says otherwise: in another one all would be scored anew. On a GPU
    engines are built, which takes minutes. Stop what else this machine does meanwhile.

    \b
    Example:
      pneumoq models measure champion
    """
    settings, database = engines.settings_of(session.settings(), asked_engine), session.database()
    row = aliases.resolve(database, model)
    from worker.engine import choose
    from worker.machine.gpu_lease import GpuLease
    from worker.schedules import fleet
    from worker.scoring import measuring

    choice = choose(settings)
    display = displays.opened(silent=as_json)

    def report(phase: str, step: int, steps: int) -> None:
        display.show("measure", phase, step, steps or None)

    with ExitStack() as stack:
        stack.callback(display.close)
        if choice.gpu is not None:
            lease = GpuLease(choice.gpu.uuid, "models measure")
            build.wait(lease, display)
            stack.callback(lease.release)
        done = measuring.measure(
            settings, database, row["id"], choice, session.who(), report=report
        )
    if not done:
        raise errors.Failure(
            f"model {row['id']} could be opened in no precision on {choice.kind}; what each one "
            "lacks is said above, and `pneumoq doctor` looks at this machine"
        )
    found = [one for one in rates.of_model(database, row["id"]) if one["kind"] == choice.kind]
    if as_json:
        output.emit([dict(one) for one in found], as_json=True)
        return
    output.table(shown(found), [column for column in COLUMNS if column != "measured"])
    pinned = fleet.pin(database, row["id"], "auto", engines.of(choice))
    click.echo(f"On {choice.kind} jobs compute in {pinned.precision}, {pinned.why}.")


def shown(rows: Sequence[Mapping[Any, Any]]) -> list[dict[str, Any]]:
    """Rows of the rates table with COLUMNS."""

    def columns(row: Mapping[Any, Any]) -> dict[str, Any]:
        ratio, low, high = row["ratio"], row["ratio_low"], row["ratio_high"]
        return {
            **row,
            "films_per_s": f"{row['films_per_s']:,.0f}",
            "ratio": "1" if ratio is None else f"{ratio:.2f}",
            "interval": "" if ratio is None else f"{low:.2f} to {high:.2f}",
            "auto": "yes" if row["chosen"] else "",
            "measured": output.when(row["measured_at"]),
        }

    return [columns(row) for row in rows]
