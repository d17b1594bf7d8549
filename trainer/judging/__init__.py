"""May this model decide? From scores and truth to figures, thresholds and verdicts; NumPy only.

Start at `metrics`. `calibration` turns logits into probabilities and chooses the operating point,
`parity` compares a faster precision with fp32. Of a new model `gate` says whether it may take the
champion's place, by the differences that `verdict` measures, the bounds of `paired` and the
`margins` that were asked for.
`recalibration` chooses temperature and operating point anew on a site's own films.
"""
