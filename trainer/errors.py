"""Errors of the trainer, and what a caller can do about each.

TrainerError
├── FilmError             one film cannot be made into pixels: skip that film, keep the rest
│   └── FilmRefused       it is intact, but not a film to be scored
├── DatasetError          the labelled folder cannot be trained on: mend the folder
├── TableError            a text is no CSV: mend the line that is named
├── WeightsError          the initial weights cannot be used: choose others
├── ImportRefused         a model file from elsewhere cannot be taken in: see what is supported
├── CardError             the model file's metadata is missing or malformed: not one of our models
├── QuantiseError         the network is none that int8 can be made of: go on with fp32
├── ParityError           two engines disagree about the same film: do not register the model
├── CheckpointError       it cannot be written, or continued from: the message says what to do
├── Stopped               the caller asked the run to end: continue from its folder when wanted
└── TrainingFailed        the run itself broke (loss not finite): lower the learning rate
"""

from __future__ import annotations


class TrainerError(Exception):
    """Base of everything the trainer raises on purpose."""


class FilmError(TrainerError, ValueError):
    """One film cannot be made into pixels.

    `code` is a stable short word (`truncated`, `not_an_image`, `too_large`, …) that is stored
    with the item; the message says what was found, for a person.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class FilmRefused(FilmError):
    """An intact image that is not a film to be scored.

    A code of `trainer.film.refusals.REFUSALS` may be accepted by the caller, who then gets its
    pixels.
    """


class DatasetError(TrainerError, ValueError):
    """The labelled folder cannot be trained on.

    The message may name films, for whoever has the folder. `shareable` is the same without anything
    from inside the folder: it may be kept and sent on.
    """

    def __init__(self, message: str, *, shareable: str | None = None) -> None:
        super().__init__(message)
        self.shareable = message if shareable is None else shareable


class TableError(TrainerError, ValueError):
    """A text is no CSV; `line` is the number of the line where that shows."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


class WeightsError(TrainerError, ValueError):
    """The initial weights cannot be used."""


class ImportRefused(TrainerError, ValueError):
    """A model file from elsewhere cannot be taken in."""


class CardError(TrainerError, ValueError):
    """The model file's metadata is missing or malformed."""


class QuantiseError(TrainerError, ValueError):
    """The network is none that fp16 or int8 can be made of."""


class ParityError(TrainerError):
    """Two engines disagree about the same film."""


class CheckpointError(TrainerError, ValueError):
    """A checkpoint cannot be written, or not be continued from."""


class Stopped(TrainerError):
    """The caller asked the run to end; what the last checkpoint holds is kept."""


class TrainingFailed(TrainerError):
    """The training run itself broke."""
