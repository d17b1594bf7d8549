"""Regular: what a person names is opened only where it is a file.

A pipe in a film's place would hold whoever opens it for ever, and a device may have no end.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

#: What is wrong with anything else.
NO_FILE = "it is no file, but a pipe, a socket or a device"


def contents(path: Path) -> bytes:
    """The bytes of a file. Raises OSError, also for what is none (ENXIO)."""
    with open(path, "rb", opener=opener) as file:
        return file.read()


def opener(path: str, flags: int) -> int:
    """For `open`, which then raises OSError (ENXIO) for what is no file."""
    try:
        # Without O_NONBLOCK a pipe that nobody writes into is waited for.
        fd = os.open(path, flags | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise OSError(errno.ENXIO, NO_FILE, path) from error
        raise
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        raise OSError(errno.ENXIO, NO_FILE, path)
    return fd
