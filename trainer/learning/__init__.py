"""One training run, from its options to the best epoch's weights.

Start at `loop`. `options` is what may be chosen, `order` which films an epoch sees and when, `step`
one batch, `outputs` what a network says, `averaging` the mean of the weights, `state` the
checkpoints and `files` their names, `epoch` what is reported and when a run has learned enough,
`defence` what it must not learn, `warm` a start from a model file, `scalars` curves for
TensorBoard.
"""
