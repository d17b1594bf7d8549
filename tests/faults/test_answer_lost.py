"""The database commits, but its answer is lost with the connection: nothing may be done twice."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.faults import harm
from tests.support import chance, servers, soak
from tests.support.site import site
from trainer.card import Card

#: How many jobs.
JOBS = soak.repetitions(quick=1, full=2)

#: Of so many commits the answer to one is lost, on the average.
ONE_IN = 6


class Forgetful:
    """A unix socket before PostgreSQL's that now and then cuts a connection after its COMMIT."""

    def __init__(self, folder: Path, behind: Path) -> None:
        self._behind = behind / ".s.PGSQL.5432"
        self._moments = chance.moments()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(folder / ".s.PGSQL.5432"))
        self._listening.listen()
        #: How many answers were lost.
        self.lost = 0

    def serve(self) -> None:
        """Serve until `close`."""
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._behind))
            threading.Thread(target=self._forth, args=(client, server), daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _forth(self, client: socket.socket, server: socket.socket) -> None:
        silent = threading.Event()
        back = threading.Thread(target=self._back, args=(client, server, silent), daemon=True)
        back.start()
        with client, server:
            while data := _received(client):
                # A client waits for each answer, so a statement of its own comes by itself.
                if data == b"Q\0\0\0\x0bCOMMIT\0" and self._moments.randrange(ONE_IN) == 0:
                    silent.set()
                    self.lost += 1
                server.sendall(data)
                if silent.is_set():
                    back.join()  # it has been committed
                    return
            server.shutdown(socket.SHUT_RDWR)
            back.join()

    def _back(self, client: socket.socket, server: socket.socket, silent: threading.Event) -> None:
        while data := _received(server):
            if silent.is_set():
                client.shutdown(socket.SHUT_RDWR)
                return
            try:
                client.sendall(data)
            except OSError:
                return


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(1 << 16)
    except OSError:
        return b""


@pytest.fixture
def forgetful(postgres_server: servers.Postgres) -> Iterator[tuple[Forgetful, Path]]:
    """A forgetful way to the server, and the folder of its socket."""
    with servers.short_folder("pneumoq-forgetful-") as folder:
        made = Forgetful(folder, postgres_server.folder)
        thread = threading.Thread(target=made.serve)
        thread.start()
        yield made, folder
        made.close()
        thread.join()


@pytest.mark.soak
@pytest.mark.postgres
def test_a_commit_whose_answer_is_lost_is_not_made_twice(
    postgres_server: servers.Postgres,
    postgres_url: str,
    forgetful: tuple[Forgetful, Path],
    valkey: servers.Valkey,
    tmp_path: Path,
    model: tuple[Path, Card],
    few: Path,
) -> None:
    way, folder = forgetful
    there = sa.make_url(postgres_url).update_query_dict({"host": str(folder)})
    with harm.with_model(site(postgres_url, valkey, tmp_path / "site"), model) as here:
        worker = here.worker(database_url=there.render_as_string(hide_password=False), lease_s=1.0)
        for _ in range(JOBS):
            harm.completed(here, harm.submit(here, *[few] * 20), 20 * harm.count(few))
        assert way.lost > 5 * JOBS
        harm.alive(worker)
        harm.calm(here)
