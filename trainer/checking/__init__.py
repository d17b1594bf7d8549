"""Whether labelled films are fit to train on, and how they are divided.

`checkup` says what is wrong with a folder, in `findings`; `preview` decodes each film once, small,
and `duplicates` finds those that show one picture. `division` divides films by patient and writes
that down, and `snapshot` compares films with those of the last time. Start at `checkup`. No torch.
"""
