"""What `doctor` looks at: each check gives a `finding`; `machine` is about this computer, `gpu`
about its GPU.
"""
