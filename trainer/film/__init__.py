"""From a film's bytes to pixels, `uint8 [S, S]`, the same everywhere; NumPy and Pillow, no torch.

Start at `rules`: `decode` is the one way in, and the rules themselves are its first page. It asks
`content` what a file is, `dicom` for a DICOM's gray, `pictures` for that of all else, `grayscale`
for windows and colour, `damage` (with `jpeg`) for what Pillow overlooks, and `refusals` for what is
intact but no film. Of a DICOM `dicom_file` makes a data set, `dicom_pixels` takes its words
(`codestream`, `decoders`), and `dicom_display` reads how they are shown (`tags`). `gpu` decodes
JPEGs on an NVIDIA GPU to the same pixels; only it needs torch.
"""
