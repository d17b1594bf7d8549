"""May this model decide? From scores and truth to figures, thresholds and verdicts; NumPy only.

Start at `metrics`. `calibration` turns logits into probabilities and chooses the operating point,
`parity` compares a faster precision with fp32, `verdict` a new model with the champion.
`recalibration` chooses temperature and operating point anew on a site's own films.
"""
