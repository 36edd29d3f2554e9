"""The interface under attack, processes over TLS: guesses at two replicas, made-up addresses, callers that dawdle."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from benchmarks.lab.fleet import Coordinator
from benchmarks.lab.processes import stopped_at_the_end
from coordinator import slowness
from coordinator.limits.service import GUESSES
from tests.coordinator.world import ENCRYPTION_KEY, KEYS, bearer

CHECK = "/api/v1/auth/check"


@contextlib.contextmanager
def running(database_url: str, *folders: Path, **more: str) -> Iterator[list[Coordinator]]:
    """Run coordinators on one database."""
    keys = ",".join(f"{role}:{key}:{role}" for role, key in KEYS.items())
    common = {
        "CERTCTL_DATABASE_URL": database_url,
        "CERTCTL_CONFIG_ENCRYPTION_KEY": ENCRYPTION_KEY,
        "CERTCTL_API_KEYS_NAMED": keys,
        **more,
    }
    found = [Coordinator(folder, common) for folder in folders]
    with stopped_at_the_end([each.process for each in found]):
        yield [each.start() for each in found]


def client(coordinator: Coordinator) -> httpx.Client:
    context = ssl.create_default_context(cafile=coordinator.ca_path)
    return httpx.Client(base_url=coordinator.url, verify=context, trust_env=False, timeout=30)


def test_two_replicas_count_guesses_together(database_url: str, tmp_path: Path) -> None:
    with (
        running(database_url, tmp_path / "one", tmp_path / "other") as (one, other),
        client(one) as first,
        client(other) as second,
    ):
        statuses = [
            (first, second)[number % 2].get(CHECK, headers=bearer(f"guessed-key-{number:08}")).status_code
            for number in range(GUESSES + 4)
        ]
        assert statuses == [401] * GUESSES + [429] * 4
        for http in (first, second):
            answer = http.get(CHECK, headers=bearer(KEYS["viewer"]))
            assert answer.status_code == 429, "also the right one would be a guess"
            assert int(answer.headers["retry-after"]) <= 30
        assert 'certctl_rate_limited_total{scope="authentication"}' in httpx.get(one.metrics_url).text


def test_one_script_with_one_key_meets_the_default_limits(database_url: str, tmp_path: Path) -> None:
    defaults = {"CERTCTL_RATE_LIMIT_RPS": "", "CERTCTL_RATE_LIMIT_BURST": ""}
    with running(database_url, tmp_path, **defaults) as (coordinator,), client(coordinator) as http:
        with ThreadPoolExecutor(8) as threads:  # as fast as a script can
            asked = [threads.submit(http.get, CHECK, headers=bearer(KEYS["admin"])) for _ in range(400)]
            answers = [each.result() for each in asked]
        good = sum(answer.is_success for answer in answers)
        assert 100 <= good < 300, "the burst and what came back meanwhile"
        answer = next(answer for answer in answers if not answer.is_success)
        assert answer.status_code == 429
        assert answer.headers["ratelimit-policy"] == '"credential";q=100;w=2'
        assert http.get(CHECK, headers=bearer(KEYS["viewer"])).is_success


@pytest.mark.parametrize("trusted", [False, True], ids=["no proxy is trusted", "the proxy is trusted"])
def test_a_made_up_address_buys_nothing(database_url: str, tmp_path: Path, trusted: bool) -> None:
    proxies = {"CERTCTL_TRUSTED_PROXIES": "127.0.0.0/8"} if trusted else {}
    with running(database_url, tmp_path, **proxies) as (coordinator,), client(coordinator) as http:

        def guess(number: int, forwarded: str) -> int:
            fields = {**bearer(f"guessed-key-{number:08}"), "X-Forwarded-For": forwarded}
            return http.get(CHECK, headers=fields).status_code

        # The caller writes another address each time; a proxy appends the one that it sees.
        seen = ", 198.51.100.7" if trusted else ""
        statuses = [guess(number, f"203.0.113.{number}{seen}") for number in range(GUESSES + 2)]
        assert statuses == [401] * GUESSES + [429] * 2
        assert guess(99, f"203.0.113.1{', 198.51.100.8' if trusted else ''}") == (401 if trusted else 429)


def test_a_body_in_chunks_is_read_no_further_than_one_with_a_length(database_url: str, tmp_path: Path) -> None:
    with running(database_url, tmp_path, CERTCTL_MAX_BODY_SIZE="16384") as (coordinator,), client(coordinator) as http:
        small = http.post("/api/v1/agents", content=iter([b" " * 1000] * 16))
        assert small.status_code == 400
        big = http.post("/api/v1/agents", content=iter([b" " * 1000] * 17))
        assert big.status_code == 413
        assert big.headers["x-content-type-options"] == "nosniff"
        with pytest.raises(httpx.HTTPError):  # goes on after its answer, and is cut off
            http.post("/api/v1/agents", content=iter([b" " * 16384] * 1000)).raise_for_status()


@pytest.mark.slow
def test_callers_that_dawdle_are_cut_off_and_others_served(database_url: str, tmp_path: Path) -> None:
    starts = {
        "no head": (b"", b""),
        "slow head": (b"GET /health HTTP/1.1\r\nHost: a\r\n", b"a: b\r\n"),
        "slow body": (b"POST /api/v1/agents HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n", b" "),
        # The drops show it that nobody is there any more: a system that gives a connection up says so only when asked.
        "unread answers": (b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 400, b"GET"),
    }
    with running(database_url, tmp_path) as (coordinator,), client(coordinator) as http:
        with ThreadPoolExecutor() as threads:
            dawdling = {what: threads.submit(dawdle, coordinator, *start) for what, start in starts.items()}
            while not all(each.done() for each in dawdling.values()):
                assert http.get("/health").is_success
                time.sleep(1)
        lasted = {what: each.result() for what, each in dawdling.items()}
        assert slowness.HEAD_S - 1 <= lasted["no head"] <= slowness.HEAD_S + 5, lasted
        assert slowness.HEAD_S - 1 <= lasted["slow head"] <= slowness.HEAD_S + 5, lasted
        assert slowness.BODY_S - 1 <= lasted["slow body"] <= slowness.HEAD_S + slowness.BODY_S + 5, lasted
        assert lasted["unread answers"] <= 2 * slowness.ANSWER_S + 5, lasted
        cuts = [
            line for line in httpx.get(coordinator.metrics_url).text.splitlines() if "connections_cut_total{" in line
        ]
        assert len(cuts) >= 2, cuts


def dawdle(coordinator: Coordinator, begin: bytes, drop: bytes) -> float:
    """Send a beginning, then a drop every second, and read nothing; return how long that was possible."""
    context = ssl.create_default_context(cafile=coordinator.ca_path)
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    plain.connect(("127.0.0.1", int(coordinator.url.rpartition(":")[2])))
    started = time.monotonic()
    with context.wrap_socket(plain, server_hostname="localhost") as tls:
        tls.settimeout(1)
        with contextlib.suppress(TimeoutError):
            tls.sendall(begin)
        while (passed := time.monotonic() - started) < 120:
            if is_gone(tls):
                return passed
            if drop:
                with contextlib.suppress(OSError):
                    tls.sendall(drop)
            time.sleep(1)
    return passed


def is_gone(sock: socket.socket) -> bool:
    """Say whether the other side ended a connection, without reading from it (Linux: TCP_INFO's first byte)."""
    closed = {4, 5, 7, 8, 9, 11}  # FIN_WAIT1, FIN_WAIT2, CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in closed
