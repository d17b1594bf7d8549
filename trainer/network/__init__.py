"""The network and what it is fed.

Start at `model`, the ResNet18. `device` is where it runs and how much fits there, `feed` brings
decoded films there, `augment` changes them at random. `ood` says how unlike the training films a
film is; it learns that from `negatives`, of which some are films `spoiled` and others `drawn`, both
made of `planes`. `optimizers` change weights.
"""
