"""What the worker's tests work on: small model files, films, and jobs as the command line makes."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
import torch
from numpy.typing import NDArray
from torch import nn

from db.base import database
from db.queue import jobs
from db.registry import models
from tests.support import drawn, once
from trainer import card as cards
from trainer.card import Card
from trainer.data.labelled import NAMING
from trainer.film import rules
from trainer.modelfile import export
from trainer.network import model, ood
from worker import archive

#: S of the models here.
SIZE = 64

#: Channels of the first layer: a ResNet18's, and those of what is like one and costs a fortieth.
WIDE, NARROW = 64, 8

#: What a training job asks for that takes seconds; `data` is left to the test.
TRAINING: dict[str, Any] = {
    "epochs": 1,
    "patience": 0,
    "size": 32,
    "batch_size": 8,
    "lr": 1e-3,
    "init": "scratch",
    "precision": "fp32",
    "val_fraction": 0.3,
    "operating_point": "youden",
    "positive": "PNEUMONIA",
    "naming": NAMING,
}

#: Longest wait for something that happens in another thread or process, in seconds.
PATIENCE_S = 60.0


def films(patients: int, seed: int = 0) -> list[tuple[str, bytes]]:
    """Name and bytes of synthetic films, one to four per patient."""
    return [(f.name, f.data) for f in drawn.films(patients, seed)]


def pixels(encoded: Sequence[bytes], size: int = SIZE) -> NDArray[np.uint8]:
    """`uint8 [N, 1, S, S]` as the film rule makes it."""
    return np.stack([rules.decode(data, size)[None] for data in encoded])


def network(labels: int, seed: int, width: int = NARROW) -> model.ResNet18:
    """A ResNet18 of random weights, of so many channels in its first layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = model.ResNet18(labels)
        if width == WIDE:
            return net
        widths = (width, width, 2 * width, 4 * width, 8 * width)
        net.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        net.bn1 = nn.BatchNorm2d(width)
        for n, (inputs, outputs) in enumerate(itertools.pairwise(widths), 1):
            first = model.Block(inputs, outputs, stride=1 if n == 1 else 2)
            setattr(net, f"layer{n}", nn.Sequential(first, model.Block(outputs, outputs)))
        net.fc = nn.Linear(8 * width, labels)
    return net


def write_model(
    path: Path,
    labels: tuple[str, ...],
    seed: int,
    size: int = SIZE,
    width: int = NARROW,
    **card: Any,
) -> Card:
    """Write a model of random weights whose scores cover 0 to 1; returns its card.

    It takes seconds of a processor, so the same one is made once a run.
    """
    asked = hashlib.sha256(repr((labels, seed, size, width, sorted(card.items()))).encode())
    once.copied(
        f"model-{asked.hexdigest()[:16]}.onnx",
        lambda made: _write_model(made, labels, seed, size, width, card),
        path,
    )
    return cards.read(path)


def _write_model(
    path: Path, labels: tuple[str, ...], seed: int, size: int, width: int, card: dict[str, Any]
) -> None:
    seen = torch.from_numpy(pixels([data for _, data in films(12, seed)], size))
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # two that wait for each other are slower on a busy machine
    net = network(len(labels), seed, width)
    with torch.no_grad():
        for _ in range(10):  # the batch norms get used to films
            net.train()(seen)
        reading = net.eval().read(seen)
        # Logits that differ from film to film as those of a trained network do.
        raw = reading.logits - net.fc.bias
        net.fc.weight *= 2 / raw.std(0)[:, None]
        net.fc.bias.copy_(-(raw * (2 / raw.std(0))).mean(0))
    torch.set_num_threads(before)
    rows, planes = np.arange(len(seen)), seen[:, 0].numpy()
    detector = ood.fit(net, planes, rows[::2], ood.observe(net, planes[rows[1::2]]), seed)
    made = Card(
        labels=labels,
        positive=labels[-1],
        size=size,
        **{
            "film_rule": rules.DEFAULT_RULE,
            "golden": tuple(rules.golden()),
            "temperature": 1.0,
            "threshold": 0.5,
            "threshold_rule": f"half, of random weights {seed}",
            "ood_threshold": detector.threshold,
            **card,
        },
    )
    export.write(path, net.state_dict(), made, detector)


def register(engine: sa.Engine, files: Path | Mapping[str, Path], card: Card | None = None) -> int:
    """Register a model's file, or its files by precision (`fp32` among them); its number.

    `card` is read from the file where it is not given.
    """
    file = files if isinstance(files, Path) else files["fp32"]
    card = card or cards.read(file)
    new = models.NewModel.of(
        json.loads(card.to_json()),
        name=file.stem,
        origin="trained",
        files={card.precision: file} if isinstance(files, Path) else dict(files),
    )
    return database.write(engine, lambda c: models.register(c, new, "tests"))


def submit_score(engine: sa.Engine, model_id: int, /, *uris: Path, **job: Any) -> int:
    """Submit a scoring job over archives, with further columns of its row; its number."""
    rows = []
    for uri in uris:
        with archive.open_source(str(uri)) as source:
            rows.append(
                {
                    "uri": source.uri,
                    "kind": source.kind,
                    "fingerprint": source.fingerprint(),
                    "content_id": source.content_id(),
                }
            )
    return database.write(
        engine,
        lambda c: jobs.submit(
            c,
            kind="score",
            submitted_by="tests",
            model_id=model_id,
            source_rows=rows,
            **{"spec": {"keep_cam": "flagged"}} | job,
        ),
    )


def wait(true: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait until something is true; fail if it never is."""
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline, f"waited {patience_s:.0f} s for {what}"
        time.sleep(0.01)


def descriptors(pid: int | str = "self") -> int:
    """How many files a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
