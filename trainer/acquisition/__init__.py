"""How films were acquired, by their pixels alone: which look alike, and which are of one class.

`looks` keeps of each film what it was made with: the `marks` burned into it, which are found in
masks by `runs`, and its `measures` (frame, gray levels, sharpness). `groups` finds films that look
alike, `one_sided` names the groups that are of one class, and `sheet` draws them. A `fingerprint`
is what a model knows them by. Nothing here knows of folders or databases.
"""
