"""Whether a call that failed on a GPU means that the GPU is lost to this process.

Most errors of CUDA are of one call: a wrong argument, a library that finds no algorithm, memory
that does not suffice. After some, every further call of the process fails, and only another process
may get the GPU back. NVIDIA says of which errors that is so, and their numbers are the same in the
runtime (cudaError) and the driver (CUresult). Where an error has no number that says it, as those
of cuDNN, cuBLAS and TensorRT have not, the GPU's context itself is asked.
"""

from __future__ import annotations

import re

from worker.errors import EngineError, GpuLost
from worker.machine import gpu as gpus
from worker.machine.gpu import Gpu

#: Errors of which NVIDIA says: "This leaves the process in an inconsistent state and any further
#: CUDA work will return the same error. To continue using CUDA, the process must be terminated and
#: relaunched" (CUDA Runtime API 13, "Data types used by CUDA Runtime", enum cudaError; of 710 and
#: 810 it says the second sentence alone). Their names there, less `cudaError`.
STICKY = {
    226: "Contained",
    700: "IllegalAddress",
    702: "LaunchTimeout",
    710: "Assert",
    714: "HardwareStackError",
    715: "IllegalInstruction",
    716: "MisalignedAddress",
    717: "InvalidAddressSpace",
    718: "InvalidPc",
    719: "LaunchFailure",
    721: "TensorMemoryLeak",
    810: "MpsClientTerminated",
    911: "ExternalDevice",
}

#: Errors that say, in the middle of work, that the device or its context is not there any more, or
#: that its memory or its links are broken (the same list). 999 is what is heard of a GPU that has
#: fallen off the bus.
GONE = {
    100: "NoDevice",
    101: "InvalidDevice",
    214: "ECCUncorrectable",
    220: "NvlinkUncorrectable",
    709: "ContextIsDestroyed",
    999: "Unknown",
}

#: How ONNX Runtime gives an error's number: `CUDA failure 700: an illegal memory access was
#: encountered ; GPU=0 ; …`. What it says of cuDNN's and cuBLAS's looks so too, with numbers of
#: their own.
_NUMBER = re.compile(r"\bCUDA (?:failure|error) (\d+)\b")

#: How cudaGetErrorString and cuGetErrorString put these errors, where that is all that arrives.
_WORDS = re.compile(
    r"an illegal memory access was encountered|the launch timed out and was terminated"
    r"|device-side assert triggered|hardware stack error|an illegal instruction was encountered"
    r"|misaligned address|operation not supported on global/shared address space"
    r"|invalid program counter|unspecified launch failure|uncorrectable ECC error"
    r"|uncorrectable NVLink error|no CUDA-capable device is detected|context is destroyed"
    r"|device lost|fallen off the bus",
    re.IGNORECASE,
)


def says_so(text: str) -> bool:
    """Whether an error's text says by itself that the GPU is lost."""
    numbers = {int(number) for number in _NUMBER.findall(text)}
    return bool(numbers & (STICKY.keys() | GONE.keys()) or _WORDS.search(text))


def failure(gpu: Gpu, text: str) -> EngineError:
    """GpuLost where this text, or the GPU when it is asked, says so; else EngineError."""
    if says_so(text):
        return GpuLost(text)
    broken = gpus.broken_context(gpu)
    return GpuLost(f"{text}; {broken}") if broken else EngineError(text)
