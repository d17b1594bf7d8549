"""Options: everything that a training run may be given. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.film import rules
from trainer.learning import order as orders


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything that a run may be given."""

    #: Passes over the training films, 1 or more. From ImageNet weights a few are enough.
    epochs: int = 3
    #: Films per step. At 32 a CPU is as fast as it gets, and a 4 GB board still holds it at 224
    #: pixels.
    batch_size: int = 32
    #: AdamW's highest learning rate, above 0. From scratch 1e-3 is better.
    lr: float = 3e-4
    #: AdamW's decay, of convolutions and the classifier only; 0 or more.
    weight_decay: float = 0.05
    #: Share of each label spread over all classes, 0 to 1. Films near the border are labelled by
    #: opinion, and a network that is never quite sure calibrates better.
    label_smoothing: float = 0.05
    #: Share of itself that the moving average of the weights keeps at each step, 0 to below 1; the
    #: average is what is validated and kept. 0: the weights themselves.
    ema: float = 0.998
    #: How classes of unequal size are made to count the same: weights, sampling or none.
    balance: str = orders.WEIGHTS
    #: Epochs without a better validation after which the run ends early; 0: never.
    patience: int = 5
    #: How far films are changed at random, 0 (not) to 1: see `trainer.network.augment`. From random
    #: weights on few films 0.5 learns sooner.
    augment: float = 1.0
    #: Whether the network is kept from learning how films were acquired, see `defence`.
    defend: bool = True
    #: S: films are S × S pixels. 224 is what ImageNet's weights have seen.
    size: int = 224
    #: `imagenet`, `scratch`, a file of torchvision's ResNet18 weights, or a model file (.onnx) from
    #: whose weights training goes on.
    init: str = "imagenet"
    #: Everything random follows from it, 0 to 2**32 - 1.
    seed: int = 0
    #: For `dataset.read`: share of each class that is held out, by patient; above 0, to 0.5.
    val_fraction: float = 0.12
    #: Processes, or threads, that decode films, once per data set.
    workers: int = 2
    #: Threads that compute; 0 leaves PyTorch's own number.
    threads: int = 0
    #: `fp32`, `bf16` or `fp16` (mixed: weights stay fp32), or `auto`: bf16 where the hardware has
    #: it, twice as fast, and fp16 on a GPU that has only that.
    precision: str = "auto"
    #: Whether CUDA repeats the kernels of a step at one call, where training is on a GPU. It saves
    #: the processor work, not the GPU, and takes memory.
    graphs: bool = False
    #: Rule that makes the pixels.
    film_rule: str = rules.DEFAULT_RULE
    #: Folder of an earlier run to continue, used when this run's own has no checkpoint yet.
    resume_from: Path | None = None


#: Options that do not change what is learned: a run may be continued with others.
INCIDENTAL = ("workers", "threads", "graphs", "resume_from")
