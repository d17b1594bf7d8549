"""Device: what a run computes on, in which precision, and how much fits there.

A device is a value: the same functions run on a processor and on an NVIDIA GPU, and what only a GPU
has is a no-op elsewhere. Nothing here happens at import.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from trainer.errors import TrainingFailed

#: What may be asked for. `auto` is the fastest that the device has units for.
PRECISIONS = ("auto", "fp32", "bf16", "fp16")

#: What a mixed precision computes in; weights stay float32.
_MIXED = {"bf16": torch.bfloat16, "fp16": torch.float16}

#: Compute capability of the first GPUs with units for bfloat16 (Ampere; Orin is 8.7) and float16.
_BF16_FROM, _FP16_FROM = (8, 0), (7, 0)

#: Memory that a step leaves alone, in bytes: the libraries' own, their workspaces, weights, moments
#: and the average of the weights.
ROOM = 1 << 30

#: Bytes per pixel of a film that a step takes, and that a film takes which is only looked at. (What
#: float32 keeps for the way back is 442; the rest is what comes and goes.)
STEP_BYTES, LOOK_BYTES = 700, 256

#: Films that are looked at at once: on a processor, and on a GPU as many as this share of its
#: memory holds, a power of two between these. It must not depend on what happens to be free.
LOOKED_AT, _FEWEST, _MOST = 64, 8, 512
_LOOK_SHARE = 1 / 16

#: Side beyond which a processor looks at fewer films at once, in the same memory: 4 GiB.
_SIDE = 512

#: What CUDA and PyTorch say of too little memory besides `torch.cuda.OutOfMemoryError`. On a Jetson
#: PyTorch asks NVML, which is not there, why an allocation failed, and fails of that.
_SHORT = ("allocate memory", "out of memory", "_STATUS_ALLOC_FAILED", "NVML_SUCCESS == r")

MEMINFO = Path("/proc/meminfo")


def pick() -> torch.device:
    """The GPU that PyTorch can use, or else the processor.

    Raises TrainingFailed where there is a GPU that this PyTorch was not made for.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", torch.cuda.current_device())
    try:
        torch.ones(2, device=device).add_(1)
    except RuntimeError as error:
        if "no kernel image" not in str(error):
            raise
        major, minor = torch.cuda.get_device_capability(device)
        raise TrainingFailed(
            f"this PyTorch ({torch.__version__}) has no code for {name(device)} (compute "
            f"capability {major}.{minor}); install one that was built for it, on a Jetson the "
            "wheel for its JetPack"
        ) from error
    return device


def name(device: torch.device) -> str:
    """`cpu`, or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def described(device: torch.device) -> str:
    """The device for a person; of a processor, why it is not a GPU."""
    if device.type == "cuda":
        return name(device)
    why = "no GPU was found" if torch.version.cuda else "this PyTorch was built without CUDA"
    return f"the processor ({why})"


def precision(asked: str, device: torch.device) -> str:
    """fp32, bf16 or fp16; raises ValueError for an unknown word."""
    if asked not in PRECISIONS:
        raise ValueError(f"precision is {asked!r}; give auto, fp32, bf16 or fp16")
    if asked != "auto":
        return asked
    if device.type == "cuda":
        # Emulated bfloat16, before Ampere, is slower than fp32.
        capability = torch.cuda.get_device_capability(device)
        return (
            "bf16" if capability >= _BF16_FROM else "fp16" if capability >= _FP16_FROM else "fp32"
        )
    # Private names of PyTorch, absent on other processors and perhaps in other versions.
    has = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return "bf16" if any(bool(getattr(torch.cpu, n, lambda: False)()) for n in has) else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a network computes in this precision."""
    return torch.autocast(
        device.type, _MIXED.get(precision, torch.bfloat16), enabled=precision in _MIXED
    )


@contextlib.contextmanager
def settings(threads: int) -> Iterator[None]:
    """PyTorch's global settings for a run, put back afterwards; `threads` 0 leaves their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        # Without the search for the fastest kernel two runs on one GPU take the same one. TF32
        # would cut what is called fp32 to 10 bits, and the gates to 1e-4 would close.
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            yield
    finally:
        torch.set_num_threads(before)


def send(host: Tensor, device: torch.device) -> Tensor:
    """A tensor of the processor on `device`; the copy waits for nothing and nothing for it."""
    if device.type != "cuda":
        return host
    return host.pin_memory().to(device, non_blocking=True)


def free_bytes(device: torch.device) -> int:
    """Memory of a GPU that nobody uses."""
    if not torch.cuda.get_device_properties(device).is_integrated:
        return int(torch.cuda.mem_get_info(device)[0])
    # A Jetson's GPU has the processor's memory, and CUDA takes what caches files for used.
    return available_bytes()


def available_bytes() -> int:
    """Memory of the processor that programs could get, by Linux's estimate."""
    line = next(x for x in MEMINFO.read_text().splitlines() if x.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024


def fits(films_bytes: int, free: int, *, batch: int, size: int) -> bool:
    """Whether films may stay on a device with so much free, and a step of `batch` still fits."""
    return films_bytes + ROOM + batch * size * size * STEP_BYTES <= free


def looked_at(device: torch.device, size: int, most: int = LOOKED_AT) -> int:
    """Films of `size` × `size` to look at at once; on a processor `most`, of large ones fewer."""
    if device.type != "cuda":
        return max(1, min(most, most * _SIDE**2 // size**2))
    return _looked_at(torch.cuda.get_device_properties(device).total_memory, size)


def _looked_at(total_bytes: int, size: int) -> int:
    most = int(total_bytes * _LOOK_SHARE / (size * size * LOOK_BYTES))
    return min(_MOST, max(_FEWEST, 1 << max(0, most.bit_length() - 1)))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, of the processor or of a GPU."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SHORT)
