"""A Debian tree made with debootstrap, entered by chroot in a mount namespace: a host to install on.

The tree is made once and kept in the user's cache folder; each test works on an overlay of it, which is thrown away.
There is no systemd in it. ``systemctl`` is a stand-in of some lines that runs a unit's ExecStart as its User with its
EnvironmentFile, so that the daemon is started as the unit says.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/srv/wheels"}
"""What lets a host install without a network."""
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "certctl"
PACKAGES = "python3-venv,nginx-light,sudo,ca-certificates,procps"
SUITE = "bookworm"
_SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))

SYSTEMCTL = r"""#!/bin/sh
# A stand-in: daemon-reload and enable are noted; start, stop, restart and reload are done.
echo "$*" >>/var/log/systemctl.log
while [ "${1#--}" != "$1" ]; do shift; done
NAME=${2:-} UNIT=/etc/systemd/system/${2:-}.service PID=/run/${2:-}.pid
of() { sed -n "s/^$1=//p" "$UNIT"; }
stop() {
  [ -e $PID ] || return 0
  kill "$(cat $PID)"
  while kill -0 "$(cat $PID)" 2>/dev/null; do sleep 0.1; done
  rm $PID
}
start() {
  set -a
  for pair in $(of Environment); do eval "$pair"; done
  . "$(of EnvironmentFile)"
  setsid setpriv --reuid "$(of User)" --regid "$(of Group)" --init-groups \
    $(of ExecStart) >>/var/log/$NAME-by-unit.log 2>&1 </dev/null & echo $! >$PID
}
case "$1 $NAME" in
  "start certctl-"*) start ;; "stop certctl-"*) stop ;; "restart certctl-"*) stop; start ;;
  "reload nginx.service") /usr/sbin/nginx -s reload ;;
  "daemon-reload "*|"enable "*|"disable "*) ;;
  *) echo "no such: $*" >&2; exit 1 ;;
esac
"""


class Tree:
    """One host, thrown away in the end."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, path: str) -> Path:
        """Return where a path of the host is here."""
        return self.root / path.lstrip("/")

    def run(
        self, *argv: str, env: Mapping[str, str] | None = None, user: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host; as root unless ``user`` is named."""
        become = ["runuser", "-u", user, "--"] if user else []
        done = subprocess.run(
            ["chroot", str(self.root), *become, *argv],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert not check or done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def add_systemctl(self) -> None:
        """Let services be started on the host."""
        self.path("/usr/bin/systemctl").write_text(SYSTEMCTL)
        self.path("/usr/bin/systemctl").chmod(0o755)
        self.path("/run/systemd/system").mkdir(parents=True)

    def source(self) -> tuple[str, str]:
        """Return the option that names the wheel of this checkout."""
        (wheel,) = self.path("/srv/wheels").glob("certctl-*.whl")
        return "--source", f"/srv/wheels/{wheel.name}"

    def mode(self, path: str) -> tuple[str, str]:
        """Return mode and owner."""
        facts = self.path(path).stat()
        owner = self.run("stat", "-c", "%U", path).stdout.strip()
        return f"{stat.S_IMODE(facts.st_mode):04o}", owner

    def files(self) -> set[str]:
        """Return all that is on it, but for what programs leave that were only used."""
        used = ("proc", "dev", "tmp", "run", "root/.cache", "var/log", "var/lib/nginx", "srv")
        found = set[str]()
        for folder, folders, files in os.walk(self.root):
            here = Path(folder).relative_to(self.root)
            folders[:] = [name for name in folders if (here / name).as_posix() not in used and name != "__pycache__"]
            found |= {(here / name).as_posix() for name in (*folders, *files)}
        return {name for name in found if not name.endswith((".pyc", "-"))}  # /etc/passwd- is the one before


@contextmanager
def lent_tree(folder: Path) -> Iterator[Tree]:
    """Lend a fresh host, an overlay of the tree that is kept."""
    base, root = _base(), folder / "root"
    for name in ("upper", "work", "root"):
        (folder / name).mkdir()
    options = f"lowerdir={base},upperdir={folder / 'upper'},workdir={folder / 'work'}"
    _do("mount", "-t", "overlay", "overlay", "-o", options, str(root))
    try:
        for name in ("proc", "dev"):
            _do("mount", "--bind", f"/{name}", str(root / name))
        yield Tree(root)
    finally:
        for name in ("proc", "dev", ""):
            subprocess.run(["umount", "--lazy", str(root / name)], check=False, capture_output=True)


def _base() -> Path:
    """Return the tree that is kept; make it when it is not there."""
    kept = CACHE / f"debian-{SUITE}"
    part = kept.with_name(f"{kept.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with kept.with_name(f"{kept.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two tests may come to it at once
        if not (kept / "etc/debian_version").exists():
            shutil.rmtree(part, ignore_errors=True)
            _do("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(part), _mirror())
            part.rename(kept)
    return kept


def _mirror() -> str:
    """Return the mirror that this machine's own packages come from."""
    files = [path for place in _SOURCES for path in ([place] if place.is_file() else sorted(place.glob("*")))]
    for line in (
        line for path in files if path.suffix in {".list", ".sources"} for line in path.read_text().splitlines()
    ):
        words = line.split()
        if words[:1] == ["URIs:"] and words[1].rstrip("/").endswith("/debian"):
            return words[1]
        if words[:1] == ["deb"]:
            return next(word for word in words if "://" in word)
    message = "this machine's apt names no mirror that a Debian tree could be made from"
    raise AssertionError(message)


def _do(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}\n{done.stdout}{done.stderr}"
