from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]  # ships no hints
import openvino
import pytest
from numpy.typing import NDArray

from tests.trainer.modelfile import tensorrt
from trainer import card
from trainer.card import Card
from trainer.film import rules
from trainer.judging import calibration, crossfit, metrics
from trainer.learning import loop, outputs
from trainer.modelfile import export
from trainer.network import device, model, ood
from trainer.shift import counter

Outputs = dict[str, NDArray[np.float32]]


def films(trained: loop.Trained, n: int) -> NDArray[np.uint8]:
    """Validation films `[n, S, S]`."""
    return trained.films.take(trained.films.rows(trained.dataset.of("val")[:n]))[:, 0]


def by_onnxruntime(path: Path, image: NDArray[np.uint8]) -> Outputs:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {card.INPUT: image}), strict=True))


#: One for all tests: a second Core that goes takes the stack for signals with it.
CORE = openvino.Core()


def by_openvino(path: Path, image: NDArray[np.uint8]) -> Outputs:
    compiled = CORE.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({card.INPUT: image})
    return {output.get_any_name(): found[output] for output in compiled.outputs}


@pytest.mark.parametrize("run", [by_onnxruntime, by_openvino])
@pytest.mark.parametrize("n", [1, 4, 7])
def test_every_engine_says_what_pytorch_says(
    run: object, n: int, trained: loop.Trained, exported: tuple[Path, Card]
) -> None:
    path, about = exported
    pixels = films(trained, n)
    said = run(path, pixels[:, None])  # type: ignore[operator]
    expected = export.reference_scores(trained, about, pixels)
    assert said[card.SCORES].dtype == np.float32
    assert np.abs(said[card.SCORES] - expected).max() <= 1e-5
    assert said[card.CAM].shape == (n, 2, 2)
    assert said[card.OOD].shape == (n,)


@pytest.mark.parametrize("run", [by_onnxruntime, by_openvino])
def test_the_maps_mean_plus_the_bias_is_the_positive_logit(
    run: object, trained: loop.Trained, exported: tuple[Path, Card]
) -> None:
    path, about = exported
    pixels = films(trained, 7)
    said = run(path, pixels[:, None])  # type: ignore[operator]
    rows = trained.films.rows(trained.dataset.of("val")[:7])
    logits = outputs.predict(trained.net, trained.films, rows).logits.numpy()
    bias = trained.net.fc.bias.detach().numpy()
    positive = said[card.CAM].mean((1, 2)) + bias[about.positive_index]
    assert np.allclose(positive, logits[:, about.positive_index], atol=1e-4)
    scores = calibration.softmax(logits + about.provenance["bias"], about.temperature)
    assert np.allclose(said[card.SCORES], scores, atol=1e-5)


@pytest.mark.parametrize("run", [by_onnxruntime, by_openvino])
def test_the_detector_in_the_file_is_the_one_that_was_fitted(
    run: object, trained: loop.Trained, exported: tuple[Path, Card]
) -> None:
    path, about = exported
    pixels = trained.films
    rows = {split: pixels.rows(trained.dataset.of(split)) for split in ("train", "val")}
    with device.settings(trained.options.threads):
        val = ood.observe(trained.net, pixels.planes[rows["val"]])
        detector = ood.fit(trained.net, pixels.planes, rows["train"], val)
        strange = np.random.default_rng(0).integers(0, 256, (8, 48, 48), dtype=np.uint8)
        mixed = np.concatenate([films(trained, 24), strange])
        expected = detector(ood.observe(trained.net, mixed))
    said = run(path, mixed[:, None])[card.OOD]  # type: ignore[operator]
    assert np.allclose(said, expected, rtol=1e-3)
    assert np.median(said[:24]) == pytest.approx(1, rel=1e-3)
    assert about.ood_threshold == pytest.approx(detector.threshold, rel=1e-3)
    assert (said[:24] <= about.ood_threshold).all()
    assert (said[24:] > about.ood_threshold).all()


def test_a_black_film_and_one_of_stripes_are_flagged(
    exported: tuple[Path, Card],
) -> None:
    path, about = exported
    stripes = np.zeros((about.size, about.size), np.uint8)
    stripes[:, ::4] = 255
    strange = np.stack([np.zeros_like(stripes), stripes])[:, None]
    assert about.ood_threshold is not None
    assert (by_onnxruntime(path, strange)[card.OOD] > about.ood_threshold).all()


def test_the_card_says_how_the_model_was_made_and_how_good_it_is(
    trained: loop.Trained, exported: tuple[Path, Card]
) -> None:
    path, about = exported
    read = card.read(path)
    assert read.to_json() == about.to_json()
    assert (read.labels, read.positive, read.size) == (("NORMAL", "PNEUMONIA"), "PNEUMONIA", 48)
    assert read.dataset_hash == trained.dataset.hash
    assert read.patients == "known"
    assert read.threshold_rule == (
        "youden on 24 validation films, each as 4 acquisitions and in 1 dressing"
    )
    rules.check_golden(list(read.golden), read.film_rule)

    assert read.basis == (
        "cross-fitted over patients: of each of 5 parts the others chose epoch, temperature and "
        "threshold"
    )
    assert read.provenance["options"]["lr"] == trained.options.lr
    assert read.provenance["films"]["val"] == {"NORMAL": 12, "PNEUMONIA": 12}
    assert set(read.provenance["versions"]) == {"torch", "torchvision", "numpy", "pillow", "onnx"}


def test_the_card_says_what_is_left_where_held_out_films_look_otherwise(
    trained: loop.Trained, exported: tuple[Path, Card]
) -> None:
    path, about = exported
    found = about.shift
    assert found is not None
    assert (found["films"], found["positives"], found["patients"]) == (24, 12, 12)
    assert found["threshold"] == about.threshold
    by_name = {one["name"]: one for one in found["dressings"]}
    full = by_name["counter-shift full"]
    assert found["worst"]["auroc"] == min(one["auroc"]["value"] for one in by_name.values())
    # The network of the file says so, too.
    val = trained.dataset.of("val")
    sick = [film.label == about.positive_index for film in val]
    changes = counter.SHIFTS["full"]
    shifted = np.stack(
        [changes[int(ill)](plane) for ill, plane in zip(sick, films(trained, 24), strict=True)]
    )
    p = by_onnxruntime(path, shifted[:, None])[card.SCORES][:, about.positive_index]
    assert full["auroc"]["value"] == pytest.approx(metrics.auroc(p, np.array(sick)), abs=1e-6)
    assert full["mean_p"]["negative"]["after"] == pytest.approx(p[~np.array(sick)].mean(), abs=1e-4)


def test_the_threshold_is_chosen_on_films_as_other_acquisitions_would_have_made_them(
    trained: loop.Trained, exported: tuple[Path, Card]
) -> None:
    _, about = exported
    val = trained.dataset.of("val")
    rows = trained.films.rows(val)
    truth = np.array([f.label == about.positive_index for f in val])
    views = [
        outputs.predict(trained.net, trained.films, rows, view=view).logits.numpy()
        for view in (*range(export.VIEWS), 0)
    ]
    assert np.array_equal(views[0], views[-1])
    assert not np.array_equal(views[0], views[1])
    score = calibration.softmax(
        np.concatenate(views[:-1]) + about.provenance["bias"], about.temperature
    )[:, about.positive_index]
    chosen = calibration.operating_point(score, np.tile(truth, export.VIEWS))
    assert about.threshold == pytest.approx(chosen, abs=1e-6)


def test_the_cards_metrics_are_of_films_that_chose_nothing(
    trained: loop.Trained, exported: tuple[Path, Card]
) -> None:
    _, about = exported
    val = trained.dataset.of("val")
    rows, patients = trained.films.rows(val), [f.patient for f in val]
    labels = np.array([f.label for f in val])
    assert len(trained.held_out) == len(trained.epochs)
    kept = trained.epochs.index(trained.best)
    own = outputs.predict(trained.net, trained.films, rows).logits.numpy()
    assert np.allclose(trained.held_out[kept][0], own, atol=1e-4)
    views = np.stack([
        outputs.predict(trained.net, trained.films, rows, view=view).logits.numpy()
        for view in range(export.VIEWS)
    ])  # fmt: skip
    number, parts = crossfit.folds(labels == 1, patients)
    assert parts == crossfit.FOLDS
    found = crossfit.fit(
        own, labels, patients, about.positive_index, "youden",
        views=views, dressed=trained.held_out[kept][1:], epochs=export.of_epochs(trained),
    )  # fmt: skip
    assert about.metrics == pytest.approx(found.figures(labels == 1, patients, known="known"))
    # A fold whose films say something else changes what is reported of it, not what decides it.
    for fold in range(parts):
        inside = number == fold
        moved = views + np.where(inside, 9.0, 0.0)[:, None] * np.array([0.0, 1.0])
        again = crossfit.fit(own, labels, patients, 1, "youden", views=moved)
        assert np.ptp(again.threshold[inside]) == 0
        alone = crossfit.fit(own, labels, patients, 1, "youden", views=views)
        assert (again.threshold[inside] == alone.threshold[inside]).all()


def test_equal_weights_and_card_give_equal_bytes(
    trained: loop.Trained, exported: tuple[Path, Card], tmp_path: Path
) -> None:
    _, about = exported
    weights = trained.net.state_dict()
    export.write(tmp_path / "a.onnx", weights, about)
    export.write(tmp_path / "b.onnx", dict(reversed(weights.items())), about)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_a_model_without_a_detector_has_no_such_output(
    trained: loop.Trained, exported: tuple[Path, Card], tmp_path: Path
) -> None:
    _, about = exported
    export.write(tmp_path / "m.onnx", trained.net.state_dict(), about)
    said = by_onnxruntime(tmp_path / "m.onnx", films(trained, 1)[:, None])
    assert set(said) == {card.SCORES, card.CAM}


def test_the_file_is_what_the_oldest_supported_tensorrt_parses(
    exported: tuple[Path, Card],
) -> None:
    proto = onnx.load(str(exported[0]))
    onnx.checker.check_model(proto, full_check=True)
    assert (proto.ir_version, proto.opset_import[0].version) == (8, 17)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert not [node for node in proto.graph.node if node.op_type == "BatchNormalization"]


def test_a_side_that_32_does_not_divide_is_exported_too(
    trained: loop.Trained, exported: tuple[Path, Card], tmp_path: Path
) -> None:
    odd = dataclasses.replace(exported[1], size=50, provenance={"bias": [0.0, 0.0]})
    export.write(tmp_path / "m.onnx", trained.net.state_dict(), odd)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 50, 50), dtype=np.uint8)
    said = by_onnxruntime(tmp_path / "m.onnx", pixels[:, None])
    expected = export.reference_scores(trained, odd, pixels)
    assert np.abs(said[card.SCORES] - expected).max() <= 1e-5


def test_a_precision_that_cannot_be_written_is_refused(
    trained: loop.Trained, exported: tuple[Path, Card], tmp_path: Path
) -> None:
    other = dataclasses.replace(exported[1], precision="int4")
    with pytest.raises(ValueError, match="precision int4 cannot be written from weights"):
        export.write(tmp_path / "m.onnx", trained.net.state_dict(), other)
    assert not list(tmp_path.iterdir())


def test_three_classes_are_exported_with_the_chosen_ones_map(
    trained: loop.Trained, exported: tuple[Path, Card], tmp_path: Path
) -> None:
    net, _ = model.build(3, "scratch")
    about = dataclasses.replace(
        exported[1], labels=("A", "B", "C"), positive="B", provenance={"bias": [0.0, 0.0, 0.0]}
    )
    export.write(tmp_path / "m.onnx", net.state_dict(), about)
    said = by_onnxruntime(tmp_path / "m.onnx", films(trained, 4)[:, None])
    three = dataclasses.replace(trained, net=net.eval())
    expected = export.reference_scores(three, about, films(trained, 4))
    assert np.abs(said[card.SCORES] - expected).max() <= 1e-5
    assert np.allclose(said[card.SCORES].sum(axis=1), 1)


def test_tensorrt_builds_the_file(exported: tuple[Path, Card]) -> None:
    tensorrt.check_builds(exported[0])
