"""Archives: their members are listed as a stream and read in place; nothing is unpacked to disk.

The process that plans a job lists (`open_source`). Decoder processes read what was opened for them
(`reader_of`, `read_file`), or windows that their parent inflated (`open_spool`, `ExtentReader`);
others open and read in one (`open_reader`). A share that gives no answer is told from one that is
slow by `apart` and `stall`. Knows nothing of the database, the queue, or images.
"""

from __future__ import annotations

from worker.archive.folder import FolderReader, read_file
from worker.archive.glob import is_pattern
from worker.archive.kind import SUPPORTED, kind
from worker.archive.member import (
    DEFLATED,
    DUPLICATE,
    LINK,
    NO_FILE,
    SCATTERED,
    STORED,
    UNSAFE,
    Member,
    pack,
    unpack,
)
from worker.archive.names import display, place
from worker.archive.opening import (
    open_folder,
    open_reader,
    open_source,
    open_spool,
    read_as,
    reader_of,
    root_of,
)
from worker.archive.source import (
    BY_NAME,
    MAX_BYTES,
    WALKED,
    WINDOWED,
    Kind,
    Reader,
    Source,
    open_file,
)
from worker.archive.spool import MAX_WINDOW, Spool, spans
from worker.archive.stream import without_windows
from worker.archive.tar import ExtentReader

__all__ = [
    "BY_NAME",
    "DEFLATED",
    "DUPLICATE",
    "LINK",
    "MAX_BYTES",
    "MAX_WINDOW",
    "NO_FILE",
    "SCATTERED",
    "STORED",
    "SUPPORTED",
    "UNSAFE",
    "WALKED",
    "WINDOWED",
    "ExtentReader",
    "FolderReader",
    "Kind",
    "Member",
    "Reader",
    "Source",
    "Spool",
    "display",
    "is_pattern",
    "kind",
    "open_file",
    "open_folder",
    "open_reader",
    "open_source",
    "open_spool",
    "pack",
    "place",
    "read_as",
    "read_file",
    "reader_of",
    "root_of",
    "spans",
    "unpack",
    "without_windows",
]
