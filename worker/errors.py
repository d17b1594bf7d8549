"""Errors of the worker, and what a caller can do about each.

WorkerError
├── ConfigError           a setting is malformed: correct the environment variable
├── EngineError           the model cannot be run here: the message says what is missing
│   ├── OutOfMemory       the device is too small for this batch: try a smaller one
│   └── GpuLost           the device answers no more: end this process, another starts anew
├── DecodersError         no decoder process starts here: the message says how to see why
├── PrecisionRefused      the model may not be computed in the precision asked for
├── ArchiveError          the whole archive cannot be read: refuse the job, and say what to correct
│   └── SourceTrouble     … here and now, by trouble of its disk, share or of this machine: let
│                         another worker try, and come back to it later
└── MemberError           one member of an archive cannot be read: record it, read the next
"""

from __future__ import annotations

from typing import Literal


class WorkerError(Exception):
    """Base of everything the worker raises on purpose."""


class ConfigError(WorkerError, ValueError):
    """A setting is malformed."""


class EngineError(WorkerError):
    """The model cannot be run here."""


class OutOfMemory(EngineError):
    """The device's memory does not suffice for a batch of this size."""


class GpuLost(EngineError):
    """The device answers no more, or its context is spoiled. Only a new process may get it back."""


class DecodersError(WorkerError):
    """Decoder processes do not start."""


class PrecisionRefused(WorkerError):
    """The model may not be computed in the precision asked for."""


class ArchiveError(WorkerError, ValueError):
    """The whole archive cannot be read.

    `code` is a stable short word: `not_found`, `unreadable` (permission or input/output error),
    `empty`, `no_match` (a pattern), `unsupported`, `truncated`, `corrupt`, `multi_disk`,
    `encrypted`, `bomb`, `changed`. The message names the archive, what was found there, and what to
    do.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class SourceTrouble(ArchiveError):
    """The source cannot be read here and now, which says nothing about its films.

    `whose` trouble it is: `source` or `machine`.
    """

    def __init__(
        self, code: str, message: str, *, whose: Literal["source", "machine"] = "source"
    ) -> None:
        super().__init__(code, message)
        self.whose = whose


class NoAnswer(SourceTrouble):
    """A disk or share lets whoever asks wait for ever, as far as can be told.

    `at` is what alone gives no answer, where that is something below what was asked for.
    """

    def __init__(self, code: str, message: str, *, at: str | None = None) -> None:
        super().__init__(code, message)
        self.at = at


class ReaderEnded(ArchiveError):
    """The process that was to read the source ended before it had.

    What ended it may be what it read, or this machine, which was out of memory, say.
    """


class MemberError(WorkerError, ValueError):
    """One member of an archive cannot be read; the others are not affected.

    `code` is a stable short word that is stored with the item: `missing`, `changed`,
    `crc_mismatch`, `truncated`, `corrupt`, `encrypted`, `unsupported_compression`, `link`,
    `too_large`, `bomb`, `unsafe_name`, `duplicate_name`, `no_file`, `unreadable`. The message never
    holds the member's name, which may be a patient's. `whose` is not empty where it was the system
    that did not let it be read: see `worker.archive.trouble`.
    """

    def __init__(
        self, code: str, message: str, *, whose: Literal["", "film", "source", "machine"] = ""
    ) -> None:
        super().__init__(message)
        self.code = code
        self.whose = whose
