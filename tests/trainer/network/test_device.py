from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer.network import device

CPU = torch.device("cpu")


def test_without_a_gpu_the_processor_trains_and_says_why() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert device.pick() == CPU
    assert device.name(CPU) == "cpu"
    assert device.described(CPU).startswith("the processor (")


@pytest.mark.parametrize("asked", ["fp32", "bf16", "fp16"])
def test_a_precision_that_was_asked_for_is_used(asked: str) -> None:
    assert device.precision(asked, CPU) == asked
    with device.autocast(CPU, asked):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[asked]
    assert product.dtype == wanted


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="give auto, fp32, bf16 or fp16"):
        device.precision("int4", CPU)


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((8, 7), "bf16"), ((9, 0), "bf16"), ((7, 5), "fp16"), ((7, 0), "fp16"), ((6, 1), "fp32")],
)
def test_a_gpu_computes_in_what_it_has_units_for(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda where: capability)
    assert device.precision("auto", torch.device("cuda", 0)) == precision


def test_fp32_means_all_of_its_bits_on_a_gpu_too_and_settings_are_put_back() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    with device.settings(1):
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        assert not torch.backends.cuda.matmul.allow_tf32
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic) == before


def test_films_stay_on_a_device_only_where_a_step_still_fits() -> None:
    films = 20_000 * 224 * 224
    step = device.ROOM + 32 * 224 * 224 * device.STEP_BYTES
    assert device.fits(films, films + step, batch=32, size=224)
    assert not device.fits(films, films + step - 1, batch=32, size=224)
    assert not device.fits(films, films + step, batch=64, size=224)


def test_a_step_keeps_less_than_is_left_for_it() -> None:
    from trainer.network import model

    size, batch = 96, 4
    net = model.build(2, model.SCRATCH, 0)[0].train()
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = net(torch.zeros(batch, 1, size, size))
    assert logits.requires_grad
    assert 0.5 < sum(kept.values()) / (batch * size * size * device.STEP_BYTES) < 0.8


@pytest.mark.parametrize(
    ("gib", "size", "films"), [(4, 224, 16), (8, 224, 32), (24, 224, 64), (80, 224, 256)]
)
def test_a_larger_gpu_looks_at_more_films_at_once(gib: int, size: int, films: int) -> None:
    assert device._looked_at(gib << 30, size) == films


@pytest.mark.parametrize(("size", "most", "films"), [(224, 64, 64), (512, 64, 64), (1024, 64, 16),
                                                     (1024, 16, 4), (4096, 16, 1)])  # fmt: skip
def test_a_processor_looks_at_fewer_large_films_at_once(size: int, most: int, films: int) -> None:
    assert device.looked_at(torch.device("cpu"), size, most) == films


def test_a_tiny_or_huge_memory_does_not_make_batches_absurd() -> None:
    assert device._looked_at(1 << 20, 512) == 8
    assert device._looked_at(1 << 45, 64) == 512


def test_what_linux_would_give_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 7990000 kB\nMemFree: 100 kB\nMemAvailable:  5120 kB\n")
    monkeypatch.setattr(device, "MEMINFO", meminfo)
    assert device.available_bytes() == 5 << 20
    monkeypatch.undo()
    assert device.available_bytes() > 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAllocator.cpp":995'),
    ],
)
def test_too_little_memory_is_recognised_however_it_is_said(error: Exception) -> None:
    assert device.out_of_memory(error)


def test_other_errors_are_not_taken_for_too_little_memory() -> None:
    assert not device.out_of_memory(RuntimeError("CUDA error: an illegal memory access"))
    assert not device.out_of_memory(ValueError("out of memory"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert device.out_of_memory(caught.value)
