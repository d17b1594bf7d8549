"""Files: what a run writes in its folder, by name; known without torch."""

from __future__ import annotations

#: The newest state, the one before it, and the weights of the best epoch.
CHECKPOINT, PREVIOUS, BEST = "checkpoint.pth", "checkpoint.previous.pth", "best.pth"

#: The films that the run does without.
LEFT_OUT = "left_out.json"
