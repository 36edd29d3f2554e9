"""What must not change and must not run while an agent is under attack."""

from __future__ import annotations

import contextlib
import hashlib
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

SYSTEM = ("/etc", "/usr/local/bin", "/usr/local/sbin", "/opt", "/root/.ssh", "/var/spool", "/lib/systemd/system")
"""Where a file could make a host run something. Temporary folders are left out: others write there all the time."""
_MOST = 4 << 20


def snapshot(folders: Sequence[Path], leave_out: Sequence[Path] = (), *, times: bool = True) -> dict[str, str]:
    """Return every name below ``folders`` with kind, mode, owner, content and, with ``times``, time of change."""
    found: dict[str, str] = {}
    for folder in folders:
        if folder.exists():
            _describe_below(folder, leave_out, found, times=times)
    return found


def _describe_below(path: Path, leave_out: Sequence[Path], found: dict[str, str], *, times: bool) -> None:
    if path in leave_out:
        return
    with contextlib.suppress(FileNotFoundError):
        changed = f" {path.lstat().st_mtime_ns}" if times else ""
        found[str(path)] = _describe(path) + changed
        if path.is_dir() and not path.is_symlink():
            for entry in sorted(path.iterdir()):
                _describe_below(entry, leave_out, found, times=times)


def _describe(path: Path) -> str:
    facts = path.lstat()
    about = f"{stat.filemode(facts.st_mode)} {facts.st_uid}:{facts.st_gid} {facts.st_nlink}"
    if stat.S_ISLNK(facts.st_mode):
        return f"{about} -> {path.readlink()}"
    if not stat.S_ISREG(facts.st_mode):
        return about
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if facts.st_size < _MOST else str(facts.st_size)
    return f"{about} {digest}"


def differences(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Return what is new, gone or other."""
    names = before.keys() | after.keys()
    pairs = {name: (before.get(name, "absent"), after.get(name, "absent")) for name in sorted(names)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


@contextlib.contextmanager
def watched_descendants(pid: int) -> Iterator[set[tuple[str, ...]]]:
    """Collect the command lines of all processes below ``pid``, again and again."""
    seen: set[tuple[str, ...]] = set()
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.003):
            seen.update(_below(pid))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


def _below(pid: int) -> Iterator[tuple[str, ...]]:
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                with contextlib.suppress(OSError):
                    words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[:-1]
                    yield tuple(word.decode(errors="replace") for word in words)
                yield from _below(int(child))
