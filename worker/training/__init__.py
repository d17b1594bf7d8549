"""Training jobs. Start at `loop`: it claims jobs, giving way to more urgent scoring (`giving_way`).
`attempt` runs one in a process of its own (`process`) and turns what that reports into rows;
`checkpoints` are what a later attempt goes on from, and `start` is the model that a job begins
from. The process is `child`: it looks at the films, and has a model made of them (`making`):
trained with the trainer package, exported, checked for parity, with the faster `precisions` and the
`reference` for drift; it knows no database. A scheduled training is also a night: `night` on the
worker's side, `night_child` in the process. `evaluation` measures a model file on labelled films;
`recalibrating` chooses its operating point anew on `site_films`, and `judging` is the gate of both.
"""
