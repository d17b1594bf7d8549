"""Labelled films: reading them, whose they are, what their classes mean, keeping their pixels.

Start at `dataset`: `read` turns folders and tables into a Dataset. It takes what `gathering` found
by way of `layout` (folders named like classes) and `manifest` (tables), in the words of `labelled`;
`whose`, `tagged` (DICOM's tags), `nobody` and `patients` know whose a film is, `classes` which
class is the disease, and `names` what is kept of a film's name; `learned` is what a model was
trained on; `leavings` are files that are no films. `cache` has each film decoded once for training,
by a decoder (`decoding`) and by way of a `journal`. `frozen` holds films back for judging. All read
files with `patience`. No torch.
"""
