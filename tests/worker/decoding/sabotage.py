"""Decoders that can be made to end, to compute for ever and to take all memory.

No film that does any of this to today's decoders is known.
"""

from __future__ import annotations

#: Content at which a decoder does so.
CRASH, HANG, EAT = b"crash the decoder here", b"hang the decoder here", b"eat its memory here"

#: A `sitecustomize.py` for a folder in PYTHONPATH.
SITE = f"""
import os, signal, sys

if "worker.decoding.child" in " ".join(sys.orig_argv):
    from trainer.film import rules

    def decode(data, *arguments, _decode=rules.decode, **options):
        if {CRASH!r} in data:
            os.kill(os.getpid(), signal.SIGSEGV)
        while {HANG!r} in data:
            pass
        if {EAT!r} in data:
            bytearray(1 << 34)
        return _decode(data, *arguments, **options)

    rules.decode = decode
"""
