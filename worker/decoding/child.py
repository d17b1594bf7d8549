"""A decoder process: it reads films from archives and writes their pixels into shared memory.

It is started as `python -m worker.decoding.child` with sockets and the shared memory inherited, and
it is expendable: a film that crashes it, fills its memory or never ends costs that film. One that
takes it over finds a process that can do next to nothing (`jail`).
"""

from __future__ import annotations

import contextlib
from contextlib import closing

from worker.decoding import endpoint, reading
from worker.decoding.endpoint import Endpoint, Replies
from worker.decoding.memory_limit import MemoryLimit
from worker.decoding.protocol import Started


def main() -> None:
    """Serve the parent until it closes the socket."""
    here = endpoint.inherit()
    MemoryLimit(here.inherited.limit_mb << 20)
    with here.parent:
        here.parent.send(Started(ready=True, opener_pid=here.opener.pid).pack())
        _serve(here)


def _serve(here: Endpoint) -> None:
    for request, window_fd in here.requests():
        replies = Replies(here.parent)
        with closing(reading.Films(request, window_fd, here.opener)) as films:
            for offset, member in request.films:
                here.mark.begin()
                tags: dict[str, str] = {}
                overridden: set[str] = set()
                content, failure, whose, data = films.read(member, tags)
                here.mark.at_hand()
                if data is not None and offset >= 0:  # below 0 only its hash is wanted
                    failure = reading.decode(data, request, here.pixels, offset, tags, overridden)
                sides = None
                if request.sides and data is not None and failure is None:
                    failure, sides = reading.sides(data)
                reader = reading.reader_of(data)
                replies.add(content, failure, tags, overridden, reader, whose, sides)
                replies.send_if_due()
            replies.send()


if __name__ == "__main__":
    # Nobody is left to be answered where the parent was killed in the middle.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        main()
