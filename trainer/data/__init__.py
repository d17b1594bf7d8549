"""Labelled films: reading them, dividing them by patient, checking them, keeping their pixels.

Start at `dataset`: `read` turns folders and tables into a Dataset. It takes what `gathering` found
by way of `layout` (folders named like classes) and `manifest` (tables), in the words of `labelled`;
`patients` knows whose a film is, and `names` what is kept of its name. `cache` has each film
decoded once for training, by a decoder (`decoding`) and by way of a `journal`. `checkup` and its
`findings` say what is wrong with a folder, `preview` and `duplicates` look for copies, `division`
writes a split down, `frozen` holds films back for judging, `snapshot` compares with the last time.
All read files with `patience`. No torch.
"""
