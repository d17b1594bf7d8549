"""From a film's bytes to pixels, `uint8 [S, S]`, the same everywhere; NumPy and Pillow, no torch.

Start at `rules`: `decode` is the one way in, and the rules themselves are its first page. It asks
`content` what a file is, `dicom` (with `dicom_pixels` and `codestream`) for a DICOM's gray values,
`pictures` for those of all else, `grayscale` for windows and colour, `damage` (with `jpeg`) for
what Pillow overlooks, and `refusals` for what is intact but no film. `gpu` decodes JPEGs on an
NVIDIA GPU to the same pixels; only it needs torch.
"""
