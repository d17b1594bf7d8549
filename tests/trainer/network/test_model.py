from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision

from trainer import checkpoint
from trainer.errors import CheckpointError, WeightsError
from trainer.network import model


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A file as torchvision publishes them: 1000 classes, some statistics in the norms."""
    torch.manual_seed(3)
    net = torchvision.models.resnet18()
    with torch.no_grad():
        net.train()(torch.randn(8, 3, 64, 64))
    torch.save(net.state_dict(), tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth"


def films(n: int = 3, size: int = 64) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (n, 1, size, size), dtype=np.uint8))


def torchvisions(labels: int, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    net: torch.nn.Module = torchvision.models.resnet18(num_classes=labels)
    return net


@pytest.mark.parametrize(("labels", "seed"), [(2, 0), (5, 2**32 - 1)])
def test_a_seed_draws_the_weights_that_it_draws_in_torchvision(labels: int, seed: int) -> None:
    ours = model.build(labels, "scratch", seed)[0].state_dict()
    theirs = torchvisions(labels, seed).state_dict()
    assert list(ours) == list(theirs)  # in the same order
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


@pytest.mark.parametrize("training", [True, False])
def test_features_outputs_gradients_and_statistics_are_torchvisions_to_the_bit(
    training: bool,
) -> None:
    ours, theirs = model.build(2, "scratch", seed=7)[0], torchvisions(2, seed=7)
    labels = torch.arange(6) % 2
    for _ in range(2):  # the second time with statistics that are not the first ones
        image = films(6)
        x = ((image.float() - ours.mean) / ours.std).contiguous(memory_format=torch.channels_last)
        expected = theirs.train(training)(x)
        maps = ours.train(training).stages(image).layer4
        found = ours.fc(F.adaptive_avg_pool2d(maps, 1).flatten(1))
        assert torch.equal(found, expected)
        for net, logits in ((ours, found), (theirs, expected)):
            net.zero_grad()
            F.cross_entropy(logits, labels).backward()
        gradients = [[p.grad for p in net.parameters()] for net in (ours, theirs)]
        assert all(
            one is not None and other is not None and torch.equal(one, other)
            for one, other in zip(*gradients, strict=True)
        )
        state = theirs.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in ours.state_dict().items())
        for net in (ours, theirs):
            torch.optim.SGD(net.parameters(), lr=0.1).step()


def test_logits_are_torchvisions_of_the_gray_plane_three_times() -> None:
    net, _ = model.build(2, "scratch")
    theirs = torchvisions(2)
    theirs.load_state_dict(net.state_dict())
    image = films()
    normalise = torchvision.transforms.Normalize(model.MEAN, model.STD)
    with torch.no_grad():
        expected = theirs.eval()(normalise(image.expand(-1, 3, -1, -1) / 255))
        assert torch.allclose(net.eval()(image), expected, atol=1e-5)


@pytest.mark.parametrize("size", [32, 50, 64])
def test_the_mean_of_the_map_plus_the_bias_is_the_logit(size: int) -> None:
    net, _ = model.build(3, "scratch")
    with torch.no_grad():
        reading = net.eval().read(films(size=size))
        assert torch.allclose(reading.cam.mean((2, 3)) + net.fc.bias, reading.logits)
        assert torch.allclose(net.fc(reading.pooled), reading.logits, atol=1e-5)
        assert torch.equal(net(films(size=size)), reading.logits)


def test_published_weights_are_taken_over_with_a_new_head(published: Path) -> None:
    net, init = model.build(2, published, seed=5)
    theirs = checkpoint.load(published)
    own = net.state_dict()
    assert all(torch.equal(own[k], v) for k, v in theirs.items() if not k.startswith("fc."))
    assert own["fc.weight"].shape == (2, 512)
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    assert init == model.Init(name=f"weights {digest[:12]}", sha256=digest)


def test_half_precision_weights_become_single(published: Path) -> None:
    halved = {
        k: v.half() if v.is_floating_point() else v for k, v in checkpoint.load(published).items()
    }
    torch.save(halved, published)
    net, _ = model.build(2, published)
    assert net.conv1.weight.dtype == torch.float32
    assert torch.equal(net.conv1.weight, halved["conv1.weight"].float())


def test_a_head_for_as_many_classes_is_kept_also_from_a_training_checkpoint(
    tmp_path: Path,
) -> None:
    net, _ = model.build(2, "scratch", seed=1)
    torch.save({"epoch": 3, "state_dict": net.state_dict()}, tmp_path / "model_best.pth.tar")
    again, _ = model.build(2, tmp_path / "model_best.pth.tar", seed=2)
    assert torch.equal(again.fc.weight, net.fc.weight)


def test_the_same_seed_builds_the_same_network_and_leaves_the_callers_seed_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    nets = [model.build(2, "scratch", seed)[0] for seed in (4, 4, 5)]
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(nets[0].fc.weight, nets[1].fc.weight)
    assert torch.equal(nets[0].conv1.weight, nets[1].conv1.weight)
    assert not torch.equal(nets[0].conv1.weight, nets[2].conv1.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("layer4.1.bn2.weight"), r"lacks layer4\.1\.bn2\.weight"),
        (lambda w: w.update(extra=torch.ones(1)), "has the unknown extra"),
        (lambda w: w.update({"conv1.weight": torch.ones(64, 1, 7, 7)}), "another shape of conv1"),
        (lambda w: w.update({"conv1.weight": 7}), "another shape of conv1"),
    ],
)
def test_weights_of_another_network_are_refused_by_key(
    published: Path, change: object, message: str
) -> None:
    weights = checkpoint.load(published)
    change(weights)  # type: ignore[operator]
    torch.save(weights, published)
    with pytest.raises(WeightsError, match=message):
        model.build(2, published)


def test_files_that_are_no_weights_are_refused(tmp_path: Path, published: Path) -> None:
    (tmp_path / "page.pth").write_bytes(b"<html>not found</html>")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "cut.pth").write_bytes(published.read_bytes()[:100_000])
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("page", "empty", "cut", "list", "missing"):
        with pytest.raises(WeightsError, match=rf"initial weights: .*{name}\.pth"):
            model.build(2, tmp_path / f"{name}.pth")


def test_a_checkpoint_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    torch.save({"net": Path("x")}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match="can run code"):
        checkpoint.load(tmp_path / "code.pth")


def test_imagenet_weights_that_cannot_be_downloaded_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(WeightsError, match="give its path as the initial weights"):
        model.build(2, "imagenet")


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    checkpoint.save(path, {"epoch": 1})
    with pytest.raises(AttributeError):
        checkpoint.save(path, {"epoch": lambda: 2})  # cannot be written
    assert checkpoint.load(path) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pth"]
