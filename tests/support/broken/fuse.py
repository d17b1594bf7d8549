"""The process behind `mounts.share`: a read-only file system on the kernel's FUSE protocol.

It serves a folder, and does to requests what it is told over a socket: a line of JSON is a fault,
and an empty object ends all faults. One thread, one loop: what waits keeps nobody else waiting. The
kernel is told to keep nothing, so that every access is a request. The structures are those of
Linux's include/uapi/linux/fuse.h, protocol 7.31.
"""

from __future__ import annotations

import ctypes
import errno
import fnmatch
import json
import math
import os
import select
import socket
import stat
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

_IN_HEADER = struct.Struct("<IIQQIIIHH")
_OUT_HEADER = struct.Struct("<IiQ")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("<QQQQII")
_ATTR_OUT = struct.Struct("<QII")
_OPEN = struct.Struct("<QII")
_INIT = struct.Struct("<IIIIHHIIHHI28x")
_READ = struct.Struct("<QQI")
_DIRENT = struct.Struct("<QQII")
_STATFS = struct.Struct("<QQQQQIII28x")

_LOOKUP, _FORGET, _GETATTR, _READLINK, _OPEN_FILE, _READ_FILE = 1, 2, 3, 5, 14, 15
_STATFS_OF, _RELEASE, _FLUSH, _INIT_ALL = 17, 18, 25, 26
_OPENDIR, _READDIR, _RELEASEDIR = 27, 28, 29
_INTERRUPT, _DESTROY, _BATCH_FORGET = 36, 38, 42

_DIRECT_IO = 1

#: Who waits for one entry of a folder keeps nobody from another: the kernel would do one at a time.
_PARALLEL_DIROPS = 1 << 18

#: Operation of the protocol → what faults call it.
_CALLED = {
    _LOOKUP: "examine", _GETATTR: "examine", _READLINK: "examine", _OPEN_FILE: "open",
    _READ_FILE: "read", _FLUSH: "close", _OPENDIR: "list", _READDIR: "list",
}  # fmt: skip

#: Largest request: a header and, as nothing is written, a name.
_REQUEST = 1 << 20

_ROOT = 1


class FileSystem:
    """What is mounted, and what is wrong with it."""

    def __init__(self, folder: Path, fd: int) -> None:
        self._folder = folder
        self._fd = fd
        #: By number: path below the folder, `.` for the folder itself.
        self._paths = {_ROOT: "."}
        self._numbers = {".": _ROOT}
        self._lists: dict[int, list[tuple[str, int, int]]] = {}
        self._opened = 0
        self._fault: dict[str, Any] = {}
        self._met = 0
        #: By number: how often the fault was met there.
        self._met_at: Counter[int] = Counter()
        #: (when, request) of those that wait.
        self._late: list[tuple[float, bytes]] = []

    @property
    def next_s(self) -> float | None:
        """Seconds until one that waits is to be answered; None where none is."""
        due = min((at for at, _ in self._late), default=math.inf)
        return None if due == math.inf else max(0.0, due - time.monotonic())

    def told(self, fault: dict[str, Any]) -> None:
        """From now on this is wrong; nothing where it is empty, and those who wait are answered."""
        self._fault, self._met = fault, 0
        self._met_at.clear()
        if not fault:
            self._late = [(0.0, request) for _, request in self._late]
            self.answer_late()

    def answer_late(self) -> None:
        """Answer those that have waited long enough."""
        now = time.monotonic()
        due = [request for at, request in self._late if at <= now]
        self._late = [(at, request) for at, request in self._late if at > now]
        for request in due:
            self._serve(request)

    def asked(self, request: bytes) -> None:
        """A request: answered, refused, or left to wait."""
        _, code, unique, node, *_ = _IN_HEADER.unpack_from(request)
        if code in (_FORGET, _BATCH_FORGET, _INTERRUPT):
            return  # these want no answer
        fault = self._fault
        if fault and _CALLED.get(code) in fault["on"] and self._matches(code, node, request):
            self._met += 1
            self._met_at[node] += 1
            if self._met > fault["after"] and (self._met_at[node] + node) % fault["every"] == 0:
                if "errno" in fault:
                    self._reply(unique, error=fault["errno"])
                else:
                    seconds = fault["seconds"]
                    at = math.inf if seconds is None else time.monotonic() + seconds
                    self._late.append((at, request))
                return
        self._serve(request)

    def _matches(self, code: int, node: int, request: bytes) -> bool:
        path = self._paths.get(node, ".")
        if code == _LOOKUP:
            path = self._below(path, _name(request))
        return fnmatch.fnmatchcase(path, self._fault["names"])

    def _serve(self, request: bytes) -> None:
        _, code, unique, node, *_ = _IN_HEADER.unpack_from(request)
        try:
            answer = self._answer(code, node, request)
        except OSError as error:
            self._reply(unique, error=error.errno or errno.EIO)
        else:
            if answer is None:
                self._reply(unique, error=errno.ENOSYS)
            else:
                self._reply(unique, answer)

    def _answer(self, code: int, node: int, request: bytes) -> bytes | None:
        body = request[_IN_HEADER.size :]
        path = self._paths.get(node, ".")
        if code == _INIT_ALL:
            return _INIT.pack(7, 31, 1 << 16, _PARALLEL_DIROPS, 64, 48, 1 << 16, 1, 16, 0, 0)
        if code == _LOOKUP:
            path = self._below(path, _name(request))
            attributes = self._attributes(path)
            return _ENTRY.pack(self._number(path), 0, 0, 0, 0, 0) + attributes
        if code == _GETATTR:
            return _ATTR_OUT.pack(0, 0, 0) + self._attributes(path)
        if code == _READLINK:
            return os.fsencode((self._folder / path).readlink())
        if code in (_OPEN_FILE, _OPENDIR):
            self._opened += 1
            if code == _OPENDIR:
                self._lists[self._opened] = self._list(path)
            else:
                os.close(os.open(self._folder / path, os.O_RDONLY))
            return _OPEN.pack(self._opened, _DIRECT_IO if code == _OPEN_FILE else 0, 0)
        if code == _READ_FILE:
            _, offset, size = _READ.unpack_from(body)
            with (self._folder / path).open("rb", buffering=0) as file:
                return os.pread(file.fileno(), size, offset)
        if code == _READDIR:
            handle, offset, size = _READ.unpack_from(body)
            return _entries(self._lists[handle], offset, size)
        if code == _RELEASEDIR:
            self._lists.pop(_READ.unpack_from(body + bytes(_READ.size))[0], None)
            return b""
        if code == _STATFS_OF:
            return _STATFS.pack(1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19, 4096, 255, 4096)
        if code in (_RELEASE, _FLUSH, _DESTROY):
            return b""
        return None

    def _list(self, path: str) -> list[tuple[str, int, int]]:
        with os.scandir(self._folder / path) as entries:
            return [
                (entry.name, self._number(self._below(path, entry.name)),
                 stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode) >> 12)
                for entry in entries
            ]  # fmt: skip

    def _attributes(self, path: str) -> bytes:
        found = os.lstat(self._folder / path)
        times = (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)
        return _ATTR.pack(
            self._number(path), found.st_size, found.st_blocks,
            *(ns // 10**9 for ns in times), *(ns % 10**9 for ns in times),
            found.st_mode, found.st_nlink, found.st_uid, found.st_gid, 0, 4096, 0,
        )  # fmt: skip

    def _number(self, path: str) -> int:
        number = self._numbers.setdefault(path, len(self._numbers) + 1)
        self._paths[number] = path
        return number

    @staticmethod
    def _below(path: str, name: str) -> str:
        return name if path == "." else f"{path}/{name}"

    def _reply(self, unique: int, answer: bytes = b"", error: int = 0) -> None:
        head = _OUT_HEADER.pack(_OUT_HEADER.size + len(answer), -error, unique)
        try:
            os.write(self._fd, head + answer)
        except OSError as failed:
            if failed.errno != errno.ENOENT:  # who asked has given up
                raise


def _name(request: bytes) -> str:
    return os.fsdecode(request[_IN_HEADER.size :].split(b"\0", 1)[0])


def _entries(listed: list[tuple[str, int, int]], offset: int, size: int) -> bytes:
    found = b""
    for place in range(offset, len(listed)):
        name, number, kind = listed[place]
        raw = os.fsencode(name)
        entry = _DIRENT.pack(number, place + 1, len(raw), kind) + raw
        entry += bytes(-len(entry) % 8)
        if len(found) + len(entry) > size:
            break
        found += entry
    return found


def main() -> None:
    """Mount and serve until killed, or until the share is unmounted."""
    folder, at, control_fd = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"share", at.encode(), b"fuse.share", ctypes.c_ulong(0), options.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), at)
    control = socket.socket(fileno=control_fd)
    served = FileSystem(folder, fd)
    control.sendall(b"+")
    unread = b""
    while True:
        ready, _, _ = select.select([fd, control], [], [], served.next_s)
        served.answer_late()
        if control in ready:
            more = control.recv(1 << 16)
            if not more:
                return
            *lines, unread = (unread + more).split(b"\n")
            for line in lines:
                served.told(json.loads(line))
                control.sendall(b"+")
        if fd in ready:
            try:
                served.asked(os.read(fd, _REQUEST))
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return  # it was unmounted
                if error.errno not in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    raise


if __name__ == "__main__":
    main()
