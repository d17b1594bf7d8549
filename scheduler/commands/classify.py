"""`pneumoq classify`: one film, here and now, without the queue."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from db.registry import aliases
from scheduler import engines, errors, session
from scheduler.show import output
from scheduler.submitting import precision


@click.command("classify")
@click.argument("image", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("out", required=False, type=click.Path(path_type=Path, dir_okay=False))
@precision.model_option
@precision.option
@engines.here
@output.json_option
def command(
    image: Path,
    out: Path | None,
    model: str,
    asked: str,
    asked_engine: str | None,
    as_json: bool,
) -> None:
    """Score one film now and print the answer; nothing is stored.

    The answer is that of a scoring job with this model and precision, to the last bit. With OUT,
    write the film there with the answer and the evidence drawn on it.

    \b
    Example:
      pneumoq classify film.jpeg annotated.png
    """
    if out is not None and out.exists() and out.samefile(image):
        raise errors.Failure(f"{out} is the film itself; give OUT another name")
    settings = engines.settings_of(session.settings(), asked_engine)
    engine = session.database()
    chosen = aliases.resolve(engine, model)
    from worker.scoring import classify

    pinned = precision.pin(engine, chosen["id"], asked, engines.kind_here(settings))
    answer = classify.classify(image, settings, engine, chosen["id"], pinned)
    if out is not None:
        from scheduler.show import picture

        try:
            picture.annotate(out, answer)
        except (ValueError, OSError) as error:
            raise errors.Failure(f"{out} cannot be written: {error}") from error
    if as_json:
        output.emit(
            {
                "name": str(image),
                "label": answer.label,
                "probability": answer.probability,
                "threshold": answer.card.threshold,
                "scores": answer.scores,
                "ood": answer.ood,
                "unusual": answer.unusual,
                "look": None if answer.look is None else dataclasses.asdict(answer.look),
                "model_id": chosen["id"],
                "model": chosen["name"],
                "precision": pinned,
            },
            as_json=True,
        )
        return
    card = answer.card
    click.echo(
        f"{100 * answer.probability:.2f}% {card.positive}: called {answer.label} "
        f"(operating point {100 * card.threshold:.2f}%)"
    )
    if answer.ood is not None:
        warning = "  unlike the training films: do not trust the label" if answer.unusual else ""
        click.echo(f"distance from the training films {answer.ood:.2f} (1 is typical){warning}")
    if answer.look is not None:
        click.echo(
            f"acquired like training films with {answer.look.what}, nearly all of which were "
            f"{answer.look.label}: do not trust the label"
        )
    click.echo(
        f"model {chosen['id']} ({chosen['name']}) in {pinned}. Research software, not a medical "
        "device."
    )
    if out is not None:
        click.echo(f"annotated film: {out}")
