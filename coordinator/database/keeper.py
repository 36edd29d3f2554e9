"""The keeper: a tiny process between the coordinator and its embedded postmaster that ties their lives together.

It starts the postmaster as its child and holds the read end of a pipe from its owner. When the pipe closes – because
the owner asked for it, or because the owner died, by SIGKILL as well – it stops the postmaster, removes the socket
folder and ends. It also keeps the server's log short, since it is the one process that lives as long as the log grows.

Run by file name under ``python -I -S``, so it imports the standard library only and works from any folder:
``keeper.py LOG SOCKET_DIR ARGV...``. Its exit status is the postmaster's.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from types import FrameType

LOG_LIMIT_BYTES = 8 * 1024 * 1024
LOOK_AT_LOG_EVERY_S = 60.0
FAST_STOP_S = 60.0
IMMEDIATE_STOP_S = 10.0


def main(log: str, socket_dir: str, argv: list[str]) -> int:
    """Run ``argv`` until it ends or until stdin closes; return its exit status."""
    child_ended = _quiet_signals()
    postmaster = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    while postmaster.poll() is None:
        readable, _, _ = select.select([sys.stdin, child_ended], [], [], LOOK_AT_LOG_EVERY_S)
        if sys.stdin in readable:
            _stop(postmaster)
            shutil.rmtree(socket_dir, ignore_errors=True)
        elif child_ended in readable:
            os.read(child_ended, 512)
        shorten(log)
    return postmaster.returncode


def _quiet_signals() -> int:
    """Make the signals that end a session harmless here; return a descriptor that is readable when a child ended.

    Handlers rather than SIG_IGN: an ignored signal would stay ignored in the postmaster, a handled one does not.
    """
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, _do_nothing)
    return readable


def _do_nothing(_signal: int, _frame: FrameType | None) -> None:
    """Stand in for a handler."""


def _stop(postmaster: subprocess.Popen[bytes]) -> None:
    """Stop as fast as is clean; when that takes too long, without a checkpoint, which the next start makes good."""
    for how, patience_s in ((signal.SIGINT, FAST_STOP_S), (signal.SIGQUIT, IMMEDIATE_STOP_S)):
        postmaster.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            postmaster.wait(patience_s)
            return
    postmaster.kill()
    postmaster.wait()


def shorten(log: str, limit_bytes: int = LOG_LIMIT_BYTES) -> None:
    """Move the log's text to ``LOG.1`` once it is longer than the limit.

    Copied and truncated in place: the postmaster appends through a descriptor that it will not open again.
    """
    with contextlib.suppress(OSError):
        if os.path.getsize(log) > limit_bytes:  # noqa: PTH202 - pathlib would double the start-up time
            shutil.copy(log, f"{log}.1")
            os.truncate(log, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
