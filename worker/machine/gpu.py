"""Which NVIDIA GPUs this machine has: the driver is asked itself, with nothing but ctypes.

Asked before anything that needs a GPU is imported: TensorRT without a driver ends the process.
Makes no context. It knows nothing of engines, and is the only one here that speaks to the driver
without PyCUDA.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The driver's library. It comes with the driver, never with a package.
LIBRARY = "libcuda.so.1"

#: CUresult.
_SUCCESS, _NO_DEVICE, _STUB = 0, 100, 34

#: CUctx_flags: a thread that waits for the GPU sleeps, and leaves its core to others.
_SLEEP = 4

#: CUdevice_attribute.
_INTEGRATED, _MAJOR, _MINOR = 18, 75, 76


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU, as the driver names it."""

    #: CUDA's number of it in this process, where CUDA_VISIBLE_DEVICES decides.
    index: int
    name: str
    #: "GPU-…", the same in every process and after every start; of a MIG slice its own.
    uuid: str
    compute_capability: tuple[int, int]
    #: Of the whole machine where it is integrated.
    memory_bytes: int
    #: Whether it shares the machine's memory, as a Jetson's does.
    integrated: bool
    #: The newest CUDA that the driver speaks: "13.0".
    driver: str

    @property
    def device(self) -> str:
        """In a few words: "Orin (8.7)"."""
        major, minor = self.compute_capability
        return f"{self.name} ({major}.{minor})"


class _Absent(Exception):
    """There is no GPU that could be used; the message says why."""


def find() -> tuple[Gpu, ...]:
    """Every GPU of this machine; empty where there is none. Never raises."""
    try:
        return _ask()
    except _Absent:
        return ()


def why_none() -> str:
    """Why `find` finds no GPU, as a clause; empty where it does find one. Never raises."""
    try:
        _ask()
    except _Absent as absent:
        return str(absent)
    return ""


def free_bytes(gpu: Gpu, told: int | None = None) -> int:
    """Bytes that can be taken on it now.

    An integrated GPU takes the machine's memory, of which the kernel knows better than CUDA: what
    only caches files counts as free, and swap does not. Of others CUDA knows, within a context:
    `told` is what it said there. Without it, all that the GPU has is answered.
    """
    if gpu.integrated:
        available = _memory_available()
        if available is not None:
            return available
    return gpu.memory_bytes if told is None else told


def wait_asleep(gpu: Gpu) -> None:
    """Let threads that wait for this GPU sleep instead of trying again and again.

    Of the context that CUDA's own libraries use; one that others have set up stays as it is.
    """
    library = ctypes.CDLL(LIBRARY)
    device = ctypes.c_int()
    if library.cuDeviceGet(ctypes.byref(device), ctypes.c_int(gpu.index)) == _SUCCESS:
        library.cuDevicePrimaryCtxSetFlags_v2(device, ctypes.c_uint(_SLEEP))


def leave_context() -> None:
    """Take the current context, if there is one, off this thread's stack. It lives on."""
    library = ctypes.CDLL(LIBRARY)
    library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def broken_context(gpu: Gpu) -> str:
    """Why this process can compute no more on a GPU that it has used, in words; else empty.

    Waits for the work that is under way in the context that CUDA's libraries share: an error from
    which a process does not recover is the answer to that too.
    """
    try:
        library = ctypes.CDLL(LIBRARY)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        _call(library, "cuDeviceGet", ctypes.byref(device), ctypes.c_int(gpu.index))
        _call(library, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        try:
            _call(library, "cuCtxPushCurrent_v2", context)
            try:
                _call(library, "cuCtxSynchronize")
            finally:
                leave_context()
        finally:
            library.cuDevicePrimaryCtxRelease_v2(device)
    except OSError as error:
        return f"the NVIDIA driver's {LIBRARY} cannot be loaded: {error}"
    except _Absent as absent:
        return str(absent)
    return ""


def _memory_available() -> int | None:
    """The kernel's MemAvailable in bytes."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return None


def _ask() -> tuple[Gpu, ...]:
    """What the driver says. Raises _Absent where there is nothing to be had."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        if "cannot open shared object file: No such file" in str(error):
            raise _Absent(f"no NVIDIA driver ({LIBRARY})") from error
        raise _Absent(f"the NVIDIA driver's {LIBRARY} cannot be loaded: {error}") from error
    try:
        _call(library, "cuInit", ctypes.c_uint(0))
        version, count = ctypes.c_int(), ctypes.c_int()
        _call(library, "cuDriverGetVersion", ctypes.byref(version))
        _call(library, "cuDeviceGetCount", ctypes.byref(count))
        driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
        found = tuple(_gpu(library, index, driver) for index in range(count.value))
    except AttributeError as error:
        raise _Absent(f"{LIBRARY} is no NVIDIA driver: {error}") from error
    if not found:
        raise _Absent("the NVIDIA driver finds no GPU")
    return found


def _gpu(library: Any, index: int, driver: str) -> Gpu:
    device = ctypes.c_int()
    _call(library, "cuDeviceGet", ctypes.byref(device), ctypes.c_int(index))
    name = ctypes.create_string_buffer(256)
    _call(library, "cuDeviceGetName", name, ctypes.c_int(len(name)), device)
    uuid = (ctypes.c_ubyte * 16)()
    # The newer call tells the slices of one GPU apart; drivers before CUDA 11.4 lack it.
    ask_uuid = "cuDeviceGetUuid_v2" if hasattr(library, "cuDeviceGetUuid_v2") else "cuDeviceGetUuid"
    _call(library, ask_uuid, ctypes.byref(uuid), device)
    memory = ctypes.c_size_t()
    _call(library, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        _call(library, "cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(number), device)
        return value.value

    digits = bytes(uuid).hex()
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return Gpu(
        index=index,
        name=name.value.decode(errors="replace").strip(),
        uuid="GPU-" + "-".join(parts),
        compute_capability=(attribute(_MAJOR), attribute(_MINOR)),
        memory_bytes=memory.value,
        integrated=bool(attribute(_INTEGRATED)),
        driver=driver,
    )


def _call(library: Any, name: str, *arguments: Any) -> None:
    """One call of the driver. Raises _Absent with its words unless it succeeds."""
    status = int(getattr(library, name)(*arguments))
    if status == _SUCCESS:
        return
    if status == _NO_DEVICE:
        raise _Absent("the NVIDIA driver finds no GPU")
    if status == _STUB:
        raise _Absent(f"the {LIBRARY} that is found is CUDA's stub for linking, not a driver")
    raise _Absent(f"the NVIDIA driver refuses {name}: {_words(library, status)}")


def _words(library: Any, status: int) -> str:
    """A CUresult in the driver's words."""
    text = ctypes.c_char_p()
    try:
        library.cuGetErrorString(ctypes.c_int(status), ctypes.byref(text))
    except AttributeError:
        text = ctypes.c_char_p()
    return f"{(text.value or b'no description').decode(errors='replace')} ({status})"
