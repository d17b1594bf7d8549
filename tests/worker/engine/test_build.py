"""Builds through TensorRT-RTX, which needs no GPU for it."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import pytest

from tests.worker.engine.rtx import SIZE, TARGET, options, write_tiny
from trainer import card as cards
from trainer.card import Card
from trainer.errors import Stopped
from worker.engine import build as building
from worker.engine import progress
from worker.engine.build import OUT_OF_MEMORY, build, target_for
from worker.engine.flavour import Flavour
from worker.engine.progress import WHOLE
from worker.errors import EngineError


def watched(flavour: Flavour) -> tuple[Flavour, list[Any]]:
    """The same flavour, and a list that its builders put their configs and profiles into.

    They are the real ones, and say after a build what they were told before.
    """
    trt, made = flavour.module, []

    class Builder(trt.Builder):  # type: ignore[misc, name-defined]
        def create_network(self, flags: int) -> Any:
            made.append(super().create_network(flags))
            return made[-1]

        def create_builder_config(self) -> Any:
            made.append(super().create_builder_config())
            return made[-1]

        def create_optimization_profile(self) -> Any:
            made.append(super().create_optimization_profile())
            return made[-1]

    module = ModuleType(trt.__name__)
    module.__dict__.update({**vars(trt), "Builder": Builder})
    return Flavour(module=module, name=flavour.name, version=flavour.version), made


def refused(flavour: Flavour, path: Path, **changed: Any) -> str:
    """What the build says of a file that it refuses; one line."""
    with pytest.raises(EngineError) as refusal:
        build(flavour, path, options(**changed), target=TARGET)
    message = str(refusal.value)
    assert "\n" not in message
    assert message.startswith(f"TensorRT-RTX {flavour.version} cannot build {path.name}: ")
    return message


@pytest.mark.parametrize("precision", building.PRECISIONS)
@pytest.mark.parametrize("target", [TARGET, None])
def test_every_precision_of_a_whole_model_is_built(
    rtx: Flavour, files: dict[str, Path], precision: str, target: str | None
) -> None:
    flavour, made = watched(rtx)
    built = build(flavour, files[precision], options(precision), target=target)
    network = made[0]
    trt = rtx.module
    assert network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    film = network.get_input(0)
    assert (film.name, film.dtype) == (cards.INPUT, trt.DataType.UINT8)
    given = {network.get_output(n).name: network.get_output(n) for n in range(network.num_outputs)}
    assert given.keys() == {cards.SCORES, cards.CAM, cards.OOD}
    assert {output.dtype for output in given.values()} == {trt.DataType.FLOAT}
    # The weights are in the plan, in the precision that the file has them in.
    assert len(built.plan) > 0.9 * files[precision].stat().st_size
    assert built.timing is None  # TensorRT-RTX measures when a plan is first run
    assert built.seconds > 0


@pytest.mark.parametrize("precision", building.PRECISIONS)
def test_files_hold_only_what_the_parser_of_tensorrt_10_takes(
    files: dict[str, Path], precision: str
) -> None:
    # docs/operators.md of onnx-tensorrt: these operators of these types, and uint8 as the type of
    # a network's input or output only, so that nothing but a Cast may take it.
    graph = onnx.load(str(files[precision])).graph
    assert {node.op_type for node in graph.node} <= {
        "Add", "Cast", "Clip", "Concat", "Conv", "DequantizeLinear", "Div", "Flatten", "Gather",
        "MatMul", "MaxPool", "Mul", "QuantizeLinear", "ReduceMax", "ReduceMean", "ReduceSum",
        "Relu", "Softmax", "Sqrt", "Sub", "Transpose",
    }  # fmt: skip
    takers = {node.op_type for node in graph.node if cards.INPUT in node.input}
    assert takers == {"Cast"}
    assert onnx.TensorProto.UINT8 not in {constant.data_type for constant in graph.initializer}


def test_lower_precisions_give_smaller_plans(rtx: Flavour, files: dict[str, Path]) -> None:
    fp32, fp16, int8 = (
        len(build(rtx, files[name], options(name), target=TARGET).plan)
        for name in building.PRECISIONS
    )
    assert fp32 > 1.5 * fp16
    assert fp16 > 1.2 * int8


def test_a_model_of_three_classes_is_built(rtx: Flavour, other_model: tuple[Path, Card]) -> None:
    path, _ = other_model
    assert build(rtx, path, options(), target=TARGET).plan


@pytest.mark.parametrize("batch", [1, 8, 64])
def test_one_profile_takes_from_one_film_to_the_whole_batch_and_is_tuned_for_that(
    rtx: Flavour, tiny_file: Path, batch: int
) -> None:
    flavour, made = watched(rtx)
    build(flavour, tiny_file, options(max_batch=batch), target=TARGET)
    _, config, profile = made
    assert config.num_optimization_profiles == 1
    film = (1, SIZE, SIZE)
    assert [tuple(shape) for shape in profile.get_shape(cards.INPUT)] == [
        (1, *film), (batch, *film), (batch, *film),
    ]  # fmt: skip


def test_the_builder_is_told_the_options_and_nothing_is_rounded_to_tf32(
    rtx: Flavour, tiny_file: Path
) -> None:
    flavour, made = watched(rtx)
    build(flavour, tiny_file, options(workspace_mb=77, optimisation=1), target=TARGET)
    config, trt = made[1], rtx.module
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 77 * 1024 * 1024
    assert config.builder_optimization_level == 1
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.num_compute_capabilities == 1
    assert config.get_compute_capability(0) == trt.ComputeCapability.SM89


@pytest.mark.parametrize("precision", ["bf16", "int4", ""])
def test_a_precision_that_tensorrt_is_not_given_is_refused(precision: str) -> None:
    with pytest.raises(EngineError, match=f"fp32, fp16, int8, not in '{precision}'"):
        options(precision)


def test_options_are_plain_values() -> None:
    assert options("int8").as_dict() == {
        "precision": "int8", "size": 64, "channels": 1, "max_batch": 8, "workspace_mb": 256,
        "optimisation": 3,
    }  # fmt: skip


@pytest.mark.parametrize("damage", ["garbage", "cut short", "empty"])
def test_a_file_that_is_no_network_is_refused(
    rtx: Flavour, tiny_file: Path, tmp_path: Path, damage: str
) -> None:
    whole = tiny_file.read_bytes()
    data = {"garbage": b"no network", "cut short": whole[:-40], "empty": b""}[damage]
    path = tmp_path / "broken.onnx"
    path.write_bytes(data)
    message = refused(rtx, path)
    assert ("ir_version" if damage == "empty" else "malformed, truncated") in message


def test_a_file_that_is_not_there_is_refused(rtx: Flavour, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"gone\.onnx cannot be read: No such file"):
        build(rtx, tmp_path / "gone.onnx", options(), target=TARGET)


@pytest.mark.parametrize(("damage", "said"), [
    ("an operation", "Nonsense"),
    ("a constant", "conv1.weight"),
    ("the input", "not a whole model"),
    ("an output", "not a whole model"),
])  # fmt: skip
def test_a_network_that_cannot_be_built_is_refused_with_the_parsers_words(
    rtx: Flavour, files: dict[str, Path], tmp_path: Path, damage: str, said: str
) -> None:
    proto = onnx.load(str(files["fp16"]))
    if damage == "an operation":
        next(n for n in proto.graph.node if n.name == "maxpool").op_type = "Nonsense"
    elif damage == "a constant":
        kept = [c for c in proto.graph.initializer if c.name != "conv1.weight"]
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(kept)
    elif damage == "the input":
        proto.graph.input[0].name = proto.graph.node[0].input[0] = "other"
    else:
        kept = [o for o in proto.graph.output if o.name != cards.SCORES]
        del proto.graph.output[:]
        proto.graph.output.extend(kept)
    path = tmp_path / "broken.onnx"
    onnx.save(proto, str(path))
    assert said in refused(rtx, path, precision="fp16")


def test_films_of_another_size_or_type_than_the_options_say_are_refused(
    rtx: Flavour, tmp_path: Path
) -> None:
    larger = write_tiny(tmp_path / "larger.onnx", size=96)
    message = refused(rtx, larger)
    assert "(-1, 1, 96, 96), not uint8 (-1, 1, 64, 64)" in message
    floats = write_tiny(tmp_path / "floats.onnx", kind=onnx.TensorProto.FLOAT)
    assert "FLOAT" in refused(rtx, floats)


def test_an_unknown_target_is_refused(rtx: Flavour, tiny_file: Path) -> None:
    with pytest.raises(EngineError, match="it cannot build for SM1"):
        build(rtx, tiny_file, options(), target="SM1")


def test_a_build_that_tensorrt_gives_up_is_refused_with_its_words(
    rtx: Flavour, tiny_file: Path
) -> None:
    from worker.machine import gpu

    if gpu.find():
        pytest.skip("there is a GPU, and so a current compute capability")
    with pytest.raises(EngineError, match=r"cannot build tiny\.onnx: .*(?i:cuda|compute)"):
        build(rtx, tiny_file, options(), target="CURRENT")


def test_a_gpu_is_targeted_where_the_flavour_knows_its_compute_capability(rtx: Flavour) -> None:
    assert target_for(rtx, (8, 9)) == "SM89"
    assert target_for(rtx, (12, 0)) == "SM120"
    assert target_for(rtx, (8, 7)) is None  # a Jetson Orin, which it does not serve
    plain = Flavour(module=SimpleNamespace(), name="tensorrt", version="10.3.0")
    assert target_for(plain, (8, 9)) is None


@pytest.mark.parametrize("text", [
    "[virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory (no further "
    "information)",
    "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
    "Error Code 4: Internal Error (Could not find any implementation for node conv1 due to "
    "insufficient workspace. See verbose log for requested sizes.)",
    "Requested amount of GPU memory (17179869184 bytes) could not be allocated. There may not be "
    "enough free memory for allocation to succeed.",
])  # fmt: skip
def test_too_little_memory_is_told_from_tensorrts_words(text: str) -> None:
    assert OUT_OF_MEMORY.search(text)


@pytest.mark.parametrize("text", [
    "Error Code 7: BuildCanceled (Build canceled by user)",
    "Error Code 2: Internal Error (Assertion engine failed.)",
    "CUDA initialization failure with error: 35",
])  # fmt: skip
def test_other_errors_are_not_taken_for_too_little_memory(text: str) -> None:
    assert not OUT_OF_MEMORY.search(text)


def test_a_build_reports_steps_of_one_whole_that_never_go_back(
    rtx: Flavour, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PACE_S", 0.0)
    said: list[tuple[str, int, int]] = []
    build(rtx, files["int8"], options("int8"), target=TARGET, report=lambda *now: said.append(now))
    assert {steps for _, _, steps in said} == {WHOLE}
    at = [step for _, step, _ in said]
    assert at == sorted(at)
    assert at[0] == 0
    assert said[-1] == ("built", WHOLE, WHOLE)
    assert len(set(at)) > 20, "a bar that stands still and then jumps says nothing"
    assert len({words.rpartition(" ")[0] for words, _, _ in said}) > 3


def test_a_build_reports_no_oftener_than_somebody_can_read(
    rtx: Flavour, files: dict[str, Path]
) -> None:
    times = []
    build(
        rtx, files["int8"], options("int8"), target=TARGET,
        report=lambda *_: times.append(time.monotonic()),
    )  # fmt: skip
    gaps = [b - a for a, b in itertools.pairwise(times[:-1])]  # the last says that it is done
    assert all(gap >= 0.9 * progress.PACE_S for gap in gaps)
    assert len(times) >= 2


def test_a_build_stops_soon_after_it_is_told_to(
    rtx: Flavour, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PACE_S", 0.0)
    reports: list[str] = []
    with pytest.raises(Stopped, match=r"stopped while TensorRT built fp16\.onnx"):
        build(
            rtx, files["fp16"], options("fp16"), target=TARGET,
            report=lambda words, *_: reports.append(words), stop=lambda: len(reports) >= 5,
        )  # fmt: skip
    assert len(reports) == 6


def test_what_a_report_raises_ends_the_build_and_comes_out(
    rtx: Flavour, files: dict[str, Path]
) -> None:
    def broken(*_: Any) -> None:
        raise BrokenPipeError("the terminal is gone")

    with pytest.raises(BrokenPipeError, match="the terminal is gone"):
        build(rtx, files["fp16"], options("fp16"), target=TARGET, report=broken)


def test_ctrl_c_ends_a_build_and_is_handled_as_before_afterwards(
    rtx: Flavour, files: dict[str, Path]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    said = []

    def interrupt(words: str, *_: Any) -> None:
        if not said:
            os.kill(os.getpid(), signal.SIGINT)
        said.append(words)

    with pytest.raises(KeyboardInterrupt):
        build(rtx, files["fp16"], options("fp16"), target=TARGET, report=interrupt)
    assert "built" not in said
    assert signal.getsignal(signal.SIGINT) is before


def test_a_build_in_another_thread_leaves_the_others_running(
    rtx: Flavour, files: dict[str, Path]
) -> None:
    # A worker's heart must beat while it builds for minutes.
    done: list[bytes] = []
    thread = threading.Thread(
        target=lambda: done.append(build(rtx, files["fp32"], options(), target=TARGET).plan)
    )
    thread.start()
    beats, longest, last = 0, 0.0, time.monotonic()
    while thread.is_alive():
        time.sleep(0.005)
        now = time.monotonic()
        beats, longest, last = beats + 1, max(longest, now - last), now
    assert done
    assert beats > 10
    assert longest < 1.0
