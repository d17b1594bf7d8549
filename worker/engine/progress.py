"""Progress: how far a build is, out of the phases that TensorRT reports.

Phases nest: each is one step of its parent. It knows nothing of TensorRT but that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

#: What a build reports: a phase in words, and how far the whole is: `step` of `steps`.
#: `steps` is 0 where nobody knows how long it takes.
Report = Callable[[str, int, int], None]

#: Steps of a whole build.
WHOLE = 1000

#: Seconds between two reports, and between two looks at whether to stop.
PACE_S = 0.1


def silent(phase: str, step: int, steps: int) -> None:
    """A report to nobody."""


@dataclass(slots=True)
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Progress:
    """Reports a build's phases as steps of one whole, which never go back."""

    def __init__(self, report: Report, stop: Callable[[], bool]) -> None:
        """`report` and `stop` are asked at PACE_S at most. What they raise stops the build too."""
        self._report, self._stop = report, stop
        self._lock = threading.Lock()  # a builder may report phases from threads of its own
        self._phases: dict[str, _Phase] = {}
        self._furthest = 0
        self._asked: float | None = None
        #: Whether `stop` returned true.
        self.stopped = False
        #: What `report` or `stop` raised; it cannot pass through TensorRT, and waits here.
        self.raised: BaseException | None = None

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins within another, or within none."""
        with self._lock:
            self._phases.pop(name, None)
            if parent == name or self._within(name, parent):
                parent = None
            self._phases[name] = _Phase(parent, max(steps, 1))
            self._tell(name)

    def step(self, name: str, step: int) -> bool:
        """Step number `step`, from 0, of a phase is done. Whether to go on."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = step + 1
            self._tell(name)
            return not self.stopped and self.raised is None

    def finish(self, name: str) -> None:
        """A phase is over, whether or not all its steps were."""
        with self._lock:
            self._phases.pop(name, None)

    def _within(self, name: str, phase: str | None) -> bool:
        """Whether a phase is reported to be within `name`, which would make a circle."""
        while phase is not None:
            phase = self._phases[phase].parent if phase in self._phases else None
            if phase == name:
                return True
        return False

    def _tell(self, name: str) -> None:
        now = time.monotonic()
        # The last step of the whole is reported by whoever holds its result.
        self._furthest = max(self._furthest, min(round(WHOLE * self._done()), WHOLE - 1))
        if self._asked is not None and now - self._asked < PACE_S:
            return
        self._asked = now
        phase = self._phases.get(name)
        words = f"{name} {phase.done}/{phase.steps}" if phase and phase.steps > 1 else name
        try:
            self.stopped = self.stopped or self._stop()
            self._report(words, self._furthest, WHOLE)
        except BaseException as error:  # noqa: BLE001  (raised again once TensorRT has returned)
            self.raised = error

    def _done(self) -> float:
        """Of the phases that are under way, what share of the whole is done."""
        roots = [name for name, phase in self._phases.items() if phase.parent not in self._phases]
        return max((self._share(name) for name in roots), default=0.0)

    def _share(self, name: str) -> float:
        phase = self._phases[name]
        inner = [self._share(n) for n, other in self._phases.items() if other.parent == name]
        return min((phase.done + max(inner, default=0.0)) / phase.steps, 1.0)
