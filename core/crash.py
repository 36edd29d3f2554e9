"""Named crash points: places where a test may end the process as a power cut would.

Every step that changes state passes one. With ``CERTCTL_CRASH_POINT`` unset – always, outside of tests – passing costs
one comparison. The value is ``NAME`` or ``NAME:N`` (die at the N-th passing, counted from 1).
"""

from __future__ import annotations

import os
import signal

_name, _, _count = os.environ.get("CERTCTL_CRASH_POINT", "").partition(":")
_left = int(_count or "1") if _name else 0


def crash_point(name: str) -> None:
    """Die by SIGKILL here when ``CERTCTL_CRASH_POINT`` names this point; otherwise do nothing."""
    global _left  # noqa: PLW0603 - the count belongs to the process, and the process ends with it
    if name != _name:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
