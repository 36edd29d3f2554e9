"""A host with an ACME client in the place of an agent: certbot where it is installed, else the client of the lab."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from benchmarks.lab.acmeclient import EAB, Client

_PATIENCE_S = 60.0


class Obtained(NamedTuple):
    """What a client has got, in PEM, and what it is called."""

    client: str
    chain: bytes
    key: bytes


def obtain(folder: Path, directory_url: str, ca: Path, eab: EAB, name: str) -> Obtained:
    """Get a certificate for an account that is bound to an external one; raise ``RuntimeError`` with the output."""
    certbot = shutil.which("certbot")
    if certbot is None:
        with closing(Client(directory_url, ca, 0, eab=eab)) as client:
            return Obtained("a small ACME client", client.obtain(name), client.key)
    return _certbot(certbot, folder, directory_url, ca, eab, name)


def _certbot(program: str, folder: Path, directory_url: str, ca: Path, eab: EAB, name: str) -> Obtained:
    """Run certbot as any user; the HMAC key is in a file, since everybody sees the words of a command."""
    folder.mkdir()
    settings = {f"{kind}-dir": str(folder / kind) for kind in ("config", "work", "logs")}
    settings |= {"server": directory_url, "eab-kid": eab.kid, "eab-hmac-key": eab.hmac_key}
    settings |= dict.fromkeys(("standalone", "non-interactive", "agree-tos", "register-unsafely-without-email"), "true")
    config = folder / "cli.ini"
    config.touch(mode=0o600)
    config.write_text("".join(f"{word} = {value}\n" for word, value in settings.items()))
    # Nothing of this environment: certbot has a Python of its own.
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C.UTF-8", "REQUESTS_CA_BUNDLE": str(ca)}
    argv = [program, "certonly", "--config", str(config), "--cert-name", "site", "-d", name]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    if done.returncode:
        message = f"certbot ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        raise RuntimeError(message)
    live = folder / "config" / "live" / "site"
    return Obtained("certbot", (live / "fullchain.pem").read_bytes(), (live / "privkey.pem").read_bytes())
