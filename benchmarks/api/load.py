"""Requests: one after another by one client, for their times; many at once by wrk, for their number."""

from __future__ import annotations

import http.client
import re
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.lab.results import percentile

CONNECTIONS = 8
_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
_REFUSED = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_SOCKET_ERRORS = re.compile(r"Socket errors: .*")


class Client:
    """One kept connection that measures from the request to the last byte of its answer."""

    def __init__(self, url: str, ca: Path, key: str) -> None:
        parts = urlsplit(url)
        context = ssl.create_default_context(cafile=ca)
        self._http = http.client.HTTPSConnection(parts.hostname or "", parts.port, context=context, timeout=60)
        self._headers = {"Authorization": f"Bearer {key}"}

    def get(self, path: str) -> tuple[float, bytes]:
        """Return milliseconds and the body; the answer must be a success."""
        started = time.perf_counter()
        self._http.request("GET", path, headers=self._headers)
        response = self._http.getresponse()
        body = response.read()
        passed = (time.perf_counter() - started) * 1000
        assert response.status == http.client.OK, body[:500]
        return passed, body

    def measure(self, path_of: Callable[[int], str], count: int) -> dict[str, float]:
        """Return p50, p99 and the worst of so many requests, in milliseconds."""
        times = [self.get(path_of(number))[0] for number in range(count)]
        return {"p50": percentile(times, 0.5), "p99": percentile(times, 0.99), "max": max(times)}


def rate(url: str, seconds: float, script: str = "", folder: Path | None = None) -> float:
    """Return requests a second that wrk gets answered; none may fail."""
    argv = ["wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", f"{seconds:g}s"]
    if script and folder is not None:
        path = folder / "wrk.lua"
        path.write_text(script)
        argv += ["-s", str(path)]
    said = subprocess.run([*argv, url], capture_output=True, text=True, check=True).stdout
    assert not _REFUSED.search(said), said
    assert not _SOCKET_ERRORS.search(said), said
    found = _RATE.search(said)
    assert found, said
    return float(found[1])


def getting(key: str, certificates: int) -> str:
    """Return a script for wrk that gets certificates at random."""
    return f"""
math.randomseed(7)
request = function()
  local path = string.format("/api/v1/certificates/mc-%026d", math.random(0, {certificates - 1}))
  return wrk.format("GET", path, {{["Authorization"] = "Bearer {key}"}})
end
"""


def posting(key: str, run: str) -> str:
    """Return a script for wrk that adds certificates."""
    return f"""
local number = 0
local headers = {{["Authorization"] = "Bearer {key}", ["Content-Type"] = "application/json"}}
request = function()
  number = number + 1
  return wrk.format("POST", "/api/v1/certificates", headers,
    string.format('{{"common_name": "n%d.{run}.example.com", "environment": "prod"}}', number))
end
"""
