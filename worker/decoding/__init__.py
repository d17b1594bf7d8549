"""Decoding: films of archives become pixels in shared memory, in processes that may die of it.

Start at `pool`: `Decoders` hands `film.Film`s out and gives `film.Decoded`s back, and `supervisor`
keeps its processes (`handle`) running. `child` is such a process, and `gpu_child` one that decodes
on a GPU where `gpu_trial` finds that worth while; both reach their parent through `endpoint`, read
a film as `reading` does, and keep to `memory_limit`. They give up all rights that they can do
without (`jail`), that to open files too: each has an `opener`. `protocol` is all that parent and
children have in common, beside the `memory` for the pixels and the `marks` of what each is at.
`labelled` is the pool as training, evaluation and checks of labelled films use it.
"""
