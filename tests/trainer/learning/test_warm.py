"""Warm start: a model file becomes a network that training goes on with."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from tests.trainer import samples
from trainer import card as cards
from trainer import checkpoint
from trainer.data import dataset
from trainer.errors import Stopped, WeightsError
from trainer.learning import loop, warm
from trainer.modelfile import export
from trainer.network import augment, model
from trainer.network import device as devices

#: Few steps of a careful learning rate: weights that are lost are not learned again so soon.
ONE_EPOCH = dataclasses.replace(samples.OPTIONS, epochs=1, lr=5e-5, augment=0.5)


pytestmark = pytest.mark.usefixtures("narrow")


class Champion(NamedTuple):
    """A model file and what was trained to make it."""

    path: Path
    card: cards.Card
    trained: loop.Trained

    @property
    def rows(self) -> NDArray[np.int64]:
        """Its training films."""
        return self.trained.films.rows(self.trained.dataset.of(dataset.TRAIN))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks are small here: a second thread would only wait for the first."""
    with devices.settings(1):
        yield


@pytest.fixture(scope="module")
def champion(data: dataset.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Champion:
    """A network that is sure of its films: what a start loses is seen. So few films, disguised,
    teach less."""
    folder = tmp_path_factory.mktemp("champion")
    options = dataclasses.replace(samples.OPTIONS, epochs=10, defend=False)
    with pytest.MonkeyPatch.context() as patch:
        samples.narrowed(patch)
        trained = loop.train(options, data, folder)
    return Champion(folder / "model.onnx", export.export(trained, folder / "model.onnx"), trained)


def warmed(champion: Champion, *labels: str) -> model.ResNet18:
    """A network that begins from the champion, ready for training."""
    net, _, _ = warm.build(labels or champion.card.labels, champion.path)
    fit_norms(net, champion)
    return net


def fit_norms(net: model.ResNet18, champion: Champion, **how: Any) -> None:
    """Measure the champion's training films as they are changed in its training."""
    strength = champion.trained.options.augment
    warm.fit_norms(
        net, champion.trained.films, champion.rows, **{"strength": strength, "seed": 0, **how}
    )


def scores(net: model.ResNet18, card: cards.Card, films: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the network says in evaluation mode, calibrated as the file is."""
    with torch.no_grad():
        logits = net.eval()(torch.from_numpy(films))
    return torch.softmax(logits / card.temperature, 1).numpy()


def by_the_file(path: Path, films: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What ONNX Runtime says."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([cards.SCORES], {cards.INPUT: films})[0])


def first_losses(net: model.ResNet18, champion: Champion, batch: int = 16) -> float:
    """The mean loss of training's first look at its films, no weight being moved."""
    data, films = champion.trained.dataset, champion.trained.films
    order = np.random.default_rng(0).permutation(len(champion.rows))
    labels = torch.tensor([film.label for film in data.of(dataset.TRAIN)])[order]
    losses = []
    net = copy.deepcopy(net).train()  # its norms note what they see
    with torch.no_grad():
        for step, start in enumerate(range(0, len(order) - batch + 1, batch)):
            x = torch.from_numpy(films.take(champion.rows[order[start : start + batch]]))
            strength = champion.trained.options.augment
            x = augment.augment(x, seed=0, epoch=1, step=step, strength=strength)
            losses.append(float(F.cross_entropy(net(x), labels[start : start + batch])))
    return float(np.mean(losses))


def test_before_and_after_the_norms_are_given_back_the_network_says_what_the_file_says(
    champion: Champion,
) -> None:
    films = champion.trained.films.take(np.arange(24))
    expected = by_the_file(champion.path, films)
    net, _, _ = warm.build(champion.card.labels, champion.path)
    assert np.abs(scores(net, champion.card, films) - expected).max() < 1e-4
    fit_norms(net, champion)
    assert np.abs(scores(net, champion.card, films) - expected).max() < 1e-4
    strange = np.random.default_rng(5).integers(0, 256, (4, 1, 48, 48), np.uint8)
    found = scores(net, champion.card, strange)
    assert np.abs(found - by_the_file(champion.path, strange)).max() < 1e-4


def test_each_norm_has_the_mean_and_spread_of_its_convolution_on_the_training_films(
    champion: Champion,
) -> None:
    net, _, _ = warm.build(champion.card.labels, champion.path)
    fit_norms(net, champion, strength=0)
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        return lambda norm, inputs: seen.update({name: inputs[0].double()})

    norms = {n: m for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert len(norms) == 20
    for name, norm in norms.items():
        norm.register_forward_pre_hook(keep(name))
    with torch.no_grad():
        net(torch.from_numpy(champion.trained.films.take(champion.rows)))
    for name, norm in norms.items():
        mean, variance = seen[name].mean((0, 2, 3)), seen[name].var((0, 2, 3), unbiased=False)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-3, atol=1e-5)


def test_trainings_first_loss_is_near_the_last_one_and_far_below_that_of_norms_that_do_nothing(
    champion: Champion,
) -> None:
    last = first_losses(champion.trained.net, champion)
    idle, _, _ = warm.build(champion.card.labels, champion.path)
    lost = first_losses(idle, champion)
    found = first_losses(warmed(champion), champion)
    assert abs(found - last) < 0.15
    assert lost > found + 0.3


def test_the_last_layer_follows_the_names_of_the_classes(champion: Champion) -> None:
    films = champion.trained.films.take(np.arange(8))
    there = scores(warmed(champion), champion.card, films)
    back = scores(warmed(champion, *reversed(champion.card.labels)), champion.card, films)
    assert np.array_equal(there, back[:, ::-1])


def test_other_classes_get_a_last_layer_drawn_from_the_seed_and_a_note(champion: Champion) -> None:
    labels = ("NORMAL", "PNEUMONIA", "TUBERCULOSIS")
    net, _, said = warm.build(labels, champion.path)
    assert said.endswith(", whose classes are NORMAL, PNEUMONIA: the last layer is new")
    fresh, _ = model.build(3, model.SCRATCH)
    assert torch.equal(net.fc.weight, fresh.fc.weight)
    again, _, _ = warm.build(labels, champion.path, seed=1)
    assert not torch.equal(net.fc.weight, again.fc.weight)
    same, _, _ = warm.build(champion.card.labels, champion.path)
    assert torch.equal(net.layer4[1].conv2.weight, same.layer4[1].conv2.weight)


def test_the_start_is_named_by_the_files_hash_and_by_no_path(champion: Champion) -> None:
    _, init, said = warm.build(champion.card.labels, champion.path)
    assert init.sha256 == hashlib.sha256(champion.path.read_bytes()).hexdigest()
    assert init.name == f"model {init.sha256[:12]}"
    assert said == f"going on from the weights of {init.name}"


def test_measuring_can_be_stopped(champion: Champion) -> None:
    net, _, _ = warm.build(champion.card.labels, champion.path)
    with pytest.raises(Stopped):
        fit_norms(net, champion, stop=lambda: True)


@pytest.mark.parametrize("damage", ["no file", "no model", "a shape", "a name", "a precision"])
def test_a_file_that_is_no_network_of_ours_is_refused_by_name(
    champion: Champion, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "other.onnx"
    says = str(path)
    if damage == "no model":
        path.write_bytes(b"films")
    elif damage != "no file":
        proto = onnx.load(str(champion.path))
        weights = {one.name: one for one in proto.graph.initializer}
        if damage == "a shape":
            says = "it lacks layer3.0.conv2.weight, or has it in another shape"
            dims = weights["layer3.0.conv2.weight"].dims
            dims[:2] = [dims[0] // 2, dims[1] * 2]
        elif damage == "a name":
            says = "it lacks layer2.0.downsample.0.bias"
            weights["layer2.0.downsample.0.bias"].name = "elsewhere"
        else:
            says = "it is not an fp32 file of a ResNet18 that PneumoQ trained or imported"
            card = dataclasses.replace(champion.card, precision="int8")
            proto.metadata_props[0].value = card.to_json()
        path.write_bytes(proto.SerializeToString())
    with pytest.raises(WeightsError, match="training cannot begin from") as caught:
        warm.build(champion.card.labels, path)
    assert says in str(caught.value)


def test_a_warm_run_of_another_size_reaches_in_one_epoch_what_one_from_scratch_does_not(
    champion: Champion, data: dataset.Dataset, tmp_path: Path
) -> None:
    at_64 = dataclasses.replace(ONE_EPOCH, size=64)
    heard: list[object] = []
    start = dataclasses.replace(at_64, init=str(champion.path))
    going_on = loop.train(start, data, tmp_path / "warm", heard.append)
    scratch = loop.train(at_64, data, tmp_path / "scratch", cache=tmp_path / "warm" / "films")
    assert going_on.best.val_accuracy > 0.9
    assert scratch.best.val_accuracy < 0.7
    assert going_on.best.val_loss < scratch.best.val_loss / 2
    digest = hashlib.sha256(champion.path.read_bytes()).hexdigest()
    assert going_on.init.sha256 == digest
    assert f"going on from the weights of model {digest[:12]}" in heard


def test_a_warm_run_that_was_stopped_ends_with_the_weights_of_an_undisturbed_one(
    champion: Champion, data: dataset.Dataset, tmp_path: Path
) -> None:
    options = dataclasses.replace(ONE_EPOCH, init=str(champion.path))
    whole, parts, films = tmp_path / "whole", tmp_path / "parts", tmp_path / "films"
    loop.train(options, data, whole, cache=films)
    for steps in (0, 5):
        # The first questions are those of the nine batches that are measured. The films were
        # looked at before.
        asked = [True] + [False] * (9 + steps)
        with pytest.raises(Stopped):
            loop.train(options, data, parts, stop=asked.pop, cache=films)
    # The same file elsewhere is the same start.
    moved = tmp_path / "moved.onnx"
    moved.write_bytes(champion.path.read_bytes())
    options = dataclasses.replace(options, init=str(moved))
    heard: list[object] = []
    loop.train(options, data, parts, heard.append, cache=films)
    assert "continuing after epoch 0 of 1, at step 6 of the next" in heard
    ours, theirs = (checkpoint.load(folder / loop.CHECKPOINT) for folder in (parts, whole))
    for part in ("net", "average"):
        assert all(torch.equal(ours[part][name], value) for name, value in theirs[part].items())
