"""Servers that come with the environment, since Debian does not have them."""

from __future__ import annotations

import subprocess
import sysconfig

# Not the script of that name: its first line may be longer than a kernel takes.
ENVOY = f"{sysconfig.get_path('purelib')}/envoy/_bin/envoy"
TRAEFIK = f"{sysconfig.get_path('scripts')}/traefik"


def traefik_version() -> str:
    """Return Traefik's name and version, as it says it."""
    said = subprocess.run([TRAEFIK, "version"], capture_output=True, text=True, check=True).stdout
    return f"traefik {said.split()[1]}"
