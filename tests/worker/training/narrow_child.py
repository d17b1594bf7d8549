"""The training process with a narrow network: it does all that the real one does, in less time.

How many channels the network's first layer has says the variable TORCH_NARROW: variables of torch
reach a training process.
"""

from __future__ import annotations

import os

from trainer.network import model
from worker.training import child

#: Name of the variable with the width.
WIDTH = "TORCH_NARROW"

if __name__ == "__main__":
    model.WIDTH = int(os.environ[WIDTH])
    child.main()
