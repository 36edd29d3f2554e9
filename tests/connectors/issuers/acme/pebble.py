"""A real authority for the tests: Pebble, with the server that answers its challenges. Debian's, and a newer one."""

from __future__ import annotations

import json
import shutil
import ssl
from pathlib import Path
from typing import Any

import httpx
import trustme

from benchmarks.lab.processes import REPOSITORY, Process, free_ports
from connectors.issuers.acme.challenges import Challenge
from connectors.issuers.acme.transport import Connection
from core.acme import HTTP_01, TLS_ALPN_01

NEWER = REPOSITORY / ".cache" / "acme" / "pebble"
"""Knows renewal information and profiles, which Debian's does not; built by ``make peers-acme`` where Go is."""
EAB_KID = "kid-1"
EAB_KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"  # pragma: allowlist secret


class Pebble:
    """One authority, in strict mode, and what answers for every name there is: all of them are at 127.0.0.1."""

    def __init__(
        self,
        folder: Path,
        *,
        program: Path | None = None,
        nonce_reject: int = 5,
        alternates: int = 0,
        dns_server: str = "",
        **settings: Any,
    ) -> None:
        folder.mkdir(exist_ok=True)
        pebble, answers = str(program or shutil.which("pebble")), shutil.which("pebble-challtestsrv")
        assert Path(pebble).exists(), "pebble is needed for these tests: apt-get install pebble"
        assert answers is not None, "pebble-challtestsrv is needed for these tests: apt-get install pebble"
        self.port, self.management, self.http, self.tls, dns, self.control = free_ports(6)
        authority = trustme.CA()
        self.root = authority.cert_pem.bytes().decode()
        issued = authority.issue_cert("localhost", "127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
        issued.private_key_pem.write_to_path(folder / "key.pem")
        self.tls_context = ssl.create_default_context(cadata=self.root)
        (folder / "config.json").write_text(json.dumps({"pebble": self._config(folder) | settings}))
        environment = {
            "PEBBLE_VA_NOSLEEP": "1",
            "PEBBLE_WFE_NONCEREJECT": str(nonce_reject),
            "PEBBLE_AUTHZREUSE": "0",
            "PEBBLE_ALTERNATE_ROOTS": str(alternates),
        }
        argv = [pebble, "-strict", "-config", str(folder / "config.json")]
        argv += ["-dnsserver", dns_server or f"127.0.0.1:{dns}"]
        self.process = Process("pebble", argv, folder / "pebble.log", environment)
        argv = [answers, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", f"127.0.0.1:{dns}"]
        argv += ["-http01", f"127.0.0.1:{self.http}", "-https01", "", "-tlsalpn01", ""]
        argv += ["-management", f"127.0.0.1:{self.control}"]
        self.answers = Process("challtestsrv", argv, folder / "answers.log")

    def _config(self, folder: Path) -> dict[str, Any]:
        return {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.management}",
            "certificate": str(folder / "cert.pem"),
            "privateKey": str(folder / "key.pem"),
            "httpPort": self.http,
            "tlsPort": self.tls,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
            "certificateValidityPeriod": 7776000,
        }

    def start(self) -> Pebble:
        """Start both and wait until they answer."""
        self.answers.start()
        self.process.start()
        self.process.await_ready(lambda: self._answers(self.directory_url))
        self.answers.await_ready(lambda: self._answers(f"http://127.0.0.1:{self.control}/"))
        return self

    def stop(self) -> None:
        """Stop both."""
        self.process.stop()
        self.answers.stop()

    def _answers(self, url: str) -> bool:
        try:
            httpx.get(url, verify=self.tls_context, trust_env=False)
        except httpx.HTTPError:
            return False
        return True

    @property
    def directory_url(self) -> str:
        """Return where its directory is."""
        return f"https://localhost:{self.port}/dir"

    @property
    def connection(self) -> Connection:
        """Return how it is reached."""
        return Connection(ca_bundle=self.root)

    def manage(self, path: str) -> httpx.Response:
        """Ask its own page, for instance for ``roots/0``."""
        return httpx.get(f"https://localhost:{self.management}/{path}", verify=self.tls_context, trust_env=False)

    def set_renewal_info(self, body: dict[str, str]) -> None:
        """Let it suggest another window for a certificate."""
        url = f"https://localhost:{self.management}/set-renewal-info/"
        httpx.post(url, json=body, verify=self.tls_context, trust_env=False).raise_for_status()

    def answer(self, command: str, **body: str) -> None:
        """Change what is answered to challenges."""
        httpx.post(f"http://127.0.0.1:{self.control}/{command}", json=body, trust_env=False).raise_for_status()

    def asked(self, text: str) -> int:
        """Return how often a text stands in its log."""
        return self.process.log.read_text().count(text)


class HTTPAnswers:
    """Answers http-01."""

    type = HTTP_01

    def __init__(self, pebble: Pebble) -> None:
        self.pebble = pebble
        self.shown: list[str] = []
        self.taken_away: list[str] = []

    async def present(self, challenge: Challenge) -> None:
        self.shown.append(str(challenge.name))
        assert challenge.http_path == f"/.well-known/acme-challenge/{challenge.token}"
        self.pebble.answer("add-http01", token=challenge.token, content=challenge.http_body.decode())

    async def clean_up(self, challenge: Challenge) -> None:
        self.taken_away.append(str(challenge.name))
        self.pebble.answer("del-http01", token=challenge.token)


class TXTAnswers(HTTPAnswers):
    """Answers every challenge by a TXT record."""

    async def present(self, challenge: Challenge) -> None:
        self.shown.append(challenge.dns_name)
        self.pebble.answer("set-txt", host=f"{challenge.dns_name}.", value=challenge.dns_value)

    async def clean_up(self, challenge: Challenge) -> None:
        self.taken_away.append(challenge.dns_name)
        self.pebble.answer("clear-txt", host=f"{challenge.dns_name}.")


ALPN = TLS_ALPN_01
