"""`pneumoq models import`, and `models export` in formats that are not ours."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa

from db.base import database
from db.registry import models
from scheduler import session
from scheduler.errors import Failure
from scheduler.show import output
from scheduler.submitting import submit

#: Formats of `models export` beside our own.
FORMATS = ("jetson-inference", "pytorch")

#: How a film is made into pixels, as `trainer.film.rules.IMPORTED` names it.
PREPROCESS = ("jetson-inference", "torchvision")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--labels", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="labels.txt. Default: the one beside FILE, or what a checkpoint says.",
)  # fmt: skip
@click.option(
    "--preprocess", type=click.Choice(PREPROCESS), default=PREPROCESS[0], show_default=True,
    help="Pixels as imagenet.py makes them (the film stretched, nearest pixel), or as train.py's "
    "validation does (short side to S, the middle cut out).",
)  # fmt: skip
@click.option(
    "--positive",
    help="Class that is the disease. Default: of two classes the one whose name does not say "
    "healthy.",
)
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True),
    help="Labelled films, not trained on, to choose temperature and threshold by. Default: the "
    "network's own scores and one half.",
)  # fmt: skip
@click.option(
    "--operating-point", default="youden", show_default=True,
    help="How the threshold is chosen on --data.",
)  # fmt: skip
@click.option("--name", callback=submit.short, help="Name of the model. Default: the file's.")
@output.json_option
def command(
    file: Path, labels: Path | None, preprocess: str, positive: str | None, data: Path | None,
    operating_point: str, name: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Register a ResNet18 that jetson-inference's train.py made.

    FILE is resnet18.onnx (with resnet18.onnx.data beside it, if there is one) or
    model_best.pth.tar. It scores as imagenet.py would, and can do whatever a trained model can.

    \b
    Examples:
      pneumoq models import models/chest/resnet18.onnx --labels models/chest/labels.txt
      pneumoq models import model_best.pth.tar --preprocess torchvision --data /data/chest_xray
    """
    settings, engine = session.settings(), session.database()
    name = name or _free_name(engine, file)
    try:
        from trainer.film import rules
        from trainer.modelfile import jetson_import
        from worker.decoding import labelled
        from worker.decoding.labelled import Limits
    except ModuleNotFoundError as error:
        raise Failure(
            "importing a model needs PyTorch: pip install 'pneumoq[train]'; a worker that scores "
            "with it does not"
        ) from error
    imported = jetson_import.read(file, labels)
    with tempfile.TemporaryDirectory(prefix="pneumoq-") as work:
        path = Path(work, "model.onnx")
        try:
            card = jetson_import.write(
                imported, path, rule=rules.IMPORTED[preprocess], positive=positive, data=data,
                operating_point=operating_point, threads=settings.engine_threads,
                decoder=labelled.processes(Limits.of(settings)),
            )  # fmt: skip
        except ValueError as error:  # what calibration says of a rule that it does not know
            raise Failure(str(error)) from error
        new = models.NewModel.of(
            json.loads(card.to_json()), name=name, origin="imported", files={"fp32": path}
        )
        who = session.who()
        model_id = database.write(engine, lambda c: models.register(c, new, who))
    if as_json:
        output.emit(
            {
                "model_id": model_id, "name": name, "labels": card.labels,
                "positive": card.positive, "size": card.size, "film_rule": card.film_rule,
                "threshold": card.threshold, "notes": imported.notes,
            },
            as_json=True,
        )  # fmt: skip
        return
    click.echo(
        f"{file.name} is model {model_id} ({output.printable(name)}): {', '.join(card.labels)} at "
        f"{card.size} px, pixels by {card.film_rule}, {card.positive} at or above "
        f"{card.threshold:.4f} ({card.threshold_rule})"
    )
    for note in imported.notes:
        click.echo(note, err=True)
    if data is None:
        click.echo(
            "Its threshold is not chosen on films, and it cannot tell what is no chest film; "
            "--data FOLDER does both.",
            err=True,
        )
    click.echo(f"Measure it: pneumoq models evaluate {model_id} FOLDER")


def _free_name(engine: sa.Engine, file: Path) -> str:
    """The file's name without suffixes, and a number behind it where a model is called so."""
    stem = file.name.split(".")[0] or "imported"
    taken = {row["name"] for row in models.listing(engine)}
    return next(
        name for n in range(1, len(taken) + 2) if (name := f"{stem}-{n}" if n > 1 else stem)
        not in taken
    )  # fmt: skip


def export(row: Mapping[Any, Any], path: Path, folder: Path, form: str, as_json: bool) -> None:
    """Write a model file of ours in another format into a folder, and say what was written."""
    from trainer.folded import Network
    from trainer.modelfile import jetson_export

    network = Network(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if form == "jetson-inference":
            jetson_export.write(network, folder)
            file = folder / jetson_export.ONNX
        else:
            from trainer.modelfile import jetson_import

            file = folder / "model_best.pth.tar"
            jetson_import.write_checkpoint(network, file)
            jetson_export.write_labels(network, folder)
    except ModuleNotFoundError as error:
        raise Failure("--format pytorch needs PyTorch: pip install 'pneumoq[train]'") from error
    except OSError as error:
        raise Failure(f"{folder} cannot be written: {error.strerror}") from error
    card = network.card
    listing = folder / jetson_export.LABELS
    if as_json:
        output.emit(
            {
                "model_id": row["id"], "file": str(file), "labels": str(listing),
                "threshold": card.threshold, "film_rule": card.film_rule,
            },
            as_json=True,
        )  # fmt: skip
        return
    click.echo(f"{file}: model {row['id']} ({row['name']})\n{listing}: {', '.join(card.labels)}")
    if form == "jetson-inference":
        click.echo(
            f"imagenet.py --model={file} --labels={listing} --input_blob=input_0 "
            "--output_blob=output_0 IMAGE"
        )
    click.echo(
        f"The format holds no operating point: {card.positive} is at or above "
        f"{card.threshold:.4f}, not the likelier class.",
        err=True,
    )
    if card.film_rule != "gray-nearest-1":
        click.echo(
            f"Its pixels are made by {card.film_rule} here and by the nearest pixel there, so "
            "probabilities will differ a little on the same film.",
            err=True,
        )
