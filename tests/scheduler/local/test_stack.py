"""The local stack ends, whatever the kernel does with what it killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
import sqlalchemy as sa

from scheduler import session
from scheduler.local import stack

#: Traces a process and takes no notice of its end: until then whoever started it waits in vain,
#: as for one with a thread that the kernel does not let end.
HOLD = """
import ctypes, sys, time
libc = ctypes.CDLL(None, use_errno=True)
seize = libc.ptrace(0x4206, int(sys.argv[1]), None, None)
print(seize, flush=True)
time.sleep(60)
"""


def test_up_leaves_behind_what_cannot_be_ended_and_says_so(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMOQ_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setattr(stack, "GRACE_S", 0.2)
    monkeypatch.setattr(stack, "REAP_S", 0.5)
    told: list[str] = []
    running = stack.Stack(session.settings(), engine, queues=(), beat=False, report=told.append)
    member = stack.Member(name="worker", command=["sleep", "60"])
    running._members.append(member)
    with running:
        assert member.process is not None
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(member.process.pid)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert holder.stdout is not None
        seized = holder.stdout.readline().strip()
        holder.stdout.close()
        if seized != "0":
            holder.kill()
            holder.wait()
            pytest.skip("this machine lets no process trace another")
        began = time.monotonic()
        ending = signal.alarm(20)  # what waits for ever fails by this
        try:
            running.end()
        finally:
            signal.alarm(ending)
            holder.kill()
            holder.wait()
    assert time.monotonic() - began < 10
    assert str(member.process.pid) in told[0]
    assert member.process.wait(10) != 0
