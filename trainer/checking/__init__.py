"""Whether labelled films are fit to train on, and how they are divided.

`checkup` says what is wrong with a folder, in `findings`; `preview` decodes each film once, small,
`duplicates` finds those that show one picture, and `acquired` those that look made alike and are of
one class, of which `fingerprints` makes what a model knows such films by. `division` divides films
by patient and writes that down, and `snapshot` compares films with those of the last time. Start at
`checkup`. No torch.
"""
