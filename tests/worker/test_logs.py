"""Logs: of an exception the frames are written, and nothing of what it names."""

from __future__ import annotations

import errno
import io
import logging
import os
import subprocess
import sys

import pytest

from db.base.errors import nameless, unforeseen
from worker import logs
from worker.errors import ArchiveError

NAME = "SMITH JOHN"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EIO, os.strerror(errno.EIO), f"/films/{NAME}.png"),
         "OSError: [Errno 5] Input/output error"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", NAME),
         "FileNotFoundError: [Errno 2] No such file or directory"),
        (KeyError(NAME), "KeyError: …"),
        (ValueError(f"{NAME!r} is odd"), "ValueError: … is odd"),
        (ValueError('of "SMITH JOHN" 3/4 are odd'), "ValueError: of … … are odd"),
        (ArchiveError("empty", "/films/SMITH/a.zip: the file is empty (0 bytes)"),
         "ArchiveError: …: the file is empty (0 bytes)"),
        (ValueError(f"/films/{NAME}.dcm: bad header in films/{NAME[:5]}.dcm"),
         "ValueError: …: bad header in …"),
        (ValueError(f"no film at /films/{NAME} of 2026.dcm"), "ValueError: no film at …"),
        (RuntimeError(""), "RuntimeError"),
    ],
)  # fmt: skip
def test_what_nobody_foresaw_is_said_without_names(error: Exception, said: str) -> None:
    assert nameless(error) == said
    assert unforeseen("it", error) == f"it failed ({said}); a worker's log says why"


def test_a_logged_traceback_has_its_frames_and_causes_and_no_name() -> None:
    written = io.StringIO()
    log = logging.Logger("a worker's")
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    log.addHandler(handler)
    logs.without_names(log)
    logs.without_names(log)

    def read() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), f"/films/{NAME}.png")

    try:
        try:
            read()
        except OSError as error:
            raise KeyError(NAME) from error
    except KeyError:
        log.exception("job %d cannot be planned", 7)
    text = written.getvalue()
    assert text.startswith("ERROR job 7 cannot be planned\nTraceback (most recent call last):")
    assert "in read" in text and "OSError: [Errno 5] Input/output error" in text
    assert text.endswith("KeyError: …\n")
    assert NAME not in text


@pytest.mark.parametrize(
    "where",
    [
        "read()",
        "threading.Thread(target=read).start()",
        # As in processes that read films, which have no handler.
        "try: read()\nexcept OSError: logging.getLogger('x').exception('it ends')",
    ],
    ids=["process", "thread", "logged"],
)
def test_what_a_process_or_a_thread_ends_with_is_written_without_names(where: str) -> None:
    program = (
        "import logging, threading\nfrom worker import logs\nlogs.at_the_end()\n"
        f"def read():\n    open('/{NAME}/x.png')\n{where}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "in read" in done.stderr and "FileNotFoundError: [Errno 2]" in done.stderr
    assert NAME not in done.stderr
