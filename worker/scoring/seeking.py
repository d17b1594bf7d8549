"""Seek indexes as they are kept: what they hold of an archive's content only the site can read.

Where decompression of a gzip stream starts in the middle, it needs the 32 KiB before: bytes of
films, and names. They are sealed under the site's key. Without it, and by releases that know of no
seal, the stream is read from its beginning, which takes longer and comes to the same.
"""

from __future__ import annotations

import zlib

from worker import archive
from worker.machine.privacy import Privacy


def sealed(index: bytes | None, site: Privacy) -> bytes | None:
    """An index as it is kept: without content, and behind that the whole of it under seal."""
    without = None if index is None else archive.without_windows(index)
    return index if index is None or without is None else without + site.seal(index)


def opened(index: bytes | None, site: Privacy | None) -> bytes | None:
    """What `sealed` was given; where the seal is another site's, the index without content."""
    if index is None:
        return None
    inflater = zlib.decompressobj()
    try:
        inflater.decompress(index)
    except zlib.error:
        return index  # whoever reads it says that it is damaged
    seal = inflater.unused_data
    if not seal:
        return index  # nothing to be sealed, or of before there were seals
    return (site and site.unseal(seal)) or index[: -len(seal)]
