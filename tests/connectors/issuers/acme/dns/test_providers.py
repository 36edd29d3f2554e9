"""Records by programs and by APIs, which stand-ins serve as their vendors describe them; and the list of providers."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import anyio
import msgspec
import pytest

from benchmarks.lab.processes import wait_until
from connectors.issuers.acme.config import PROVIDERS
from connectors.issuers.acme.dns import registry
from connectors.issuers.acme.dns.acme_dns import AcmeDNS, AcmeDNSConfig
from connectors.issuers.acme.dns.azure_dns import AzureDNSConfig
from connectors.issuers.acme.dns.base import TXTRecord
from connectors.issuers.acme.dns.cloudflare import Cloudflare, CloudflareConfig
from connectors.issuers.acme.dns.route53 import Route53Config
from connectors.issuers.acme.dns.script import Script, ScriptConfig
from core.errors import DeadlineExceeded, Forbidden, InvalidInput, Misconfigured, NotFound, TooManyRequests, Transient
from core.marking import secret_fields
from core.secret import Secret
from tests.connectors.issuers.acme.service import Asked, Reply, Service, serving

pytestmark = pytest.mark.anyio
RECORD = TXTRecord("_acme-challenge.www.example.com", "value-1", "www.example.com", "token-1")
TOKEN = "cloudflare-token"


def program(path: Path, *lines: str) -> str:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(stat.S_IRWXU)
    return str(path)


async def test_a_program_is_told_by_variables_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CERTCTL_DATABASE_URL", "postgres://secret")
    out = tmp_path / "out"
    told = program(tmp_path / "present", f'env > {out}; echo "$1" >> {out}')
    script = Script(ScriptConfig(present=(told, "a b; $(id)"), clean_up=(told, "gone")))
    await script.present(RECORD)
    lines = out.read_text().splitlines()
    said = {line for line in lines if line.startswith("CERTCTL_")}
    assert said == {
        "CERTCTL_DNS_DOMAIN=www.example.com",
        "CERTCTL_DNS_FQDN=_acme-challenge.www.example.com",
        "CERTCTL_DNS_VALUE=value-1",
        "CERTCTL_DNS_TOKEN=token-1",
    }
    assert lines[-1] == "a b; $(id)"
    await script.clean_up(RECORD)
    assert out.read_text().splitlines()[-1] == "gone"
    await Script(ScriptConfig(present=(told,))).clean_up(RECORD)
    assert out.read_text().splitlines()[-1] == "gone"


async def test_a_program_that_fails_tells_its_last_words(tmp_path: Path) -> None:
    failing = program(tmp_path / "fails", "echo first >&2; echo 'no such zone' >&2; exit 3")
    with pytest.raises(Transient, match=r"ended with 3 for _acme-challenge\.www\.example\.com: no such zone"):
        await Script(ScriptConfig(present=(failing,))).present(RECORD)
    for missing in (str(tmp_path / "none"), str(tmp_path)):
        with pytest.raises(Misconfigured, match="cannot be run"):
            await Script(ScriptConfig(present=(missing,))).present(RECORD)


async def test_a_program_is_stopped_with_all_it_has_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    slow = program(tmp_path / "slow", f"sleep 60 & echo $! > {pid}; wait")
    with pytest.raises(DeadlineExceeded, match="was stopped after"):
        await Script(ScriptConfig(present=(slow,)), timeout_s=0.5).present(RECORD)
    wait_until("the end of what it has started", lambda: not is_running(int(pid.read_text())), 5)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def test_programs_of_one_order_run_one_by_one(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    alone = program(tmp_path / "alone", f"mkdir {lock} || exit 1; sleep 0.05; rmdir {lock}")
    script = Script(ScriptConfig(present=(alone,)))
    began = time.monotonic()
    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(script.present, RECORD)
    assert time.monotonic() - began >= 0.2
    assert os.environ["PATH"]


class AcmeDNSServer:
    """An acme-dns server with one registration."""

    def __init__(self) -> None:
        self.values: list[str] = []

    def __call__(self, asked: Asked) -> Reply:
        if (asked.headers["x-api-user"], asked.headers["x-api-key"]) != ("user", "acme-password"):
            return Reply(401, {"error": "forbidden"})
        assert (asked.method, asked.path, asked.json()["subdomain"]) == ("POST", "/update", "sub")
        self.values = [*self.values, asked.json()["txt"]][-2:]
        return Reply(body={"txt": asked.json()["txt"]})


async def test_acme_dns_is_sent_values() -> None:
    server = AcmeDNSServer()
    with serving(server) as service:

        def reach(password: str) -> AcmeDNS:
            config = AcmeDNSConfig(
                server_url=f"{service.url}/",
                username="user",
                password=Secret(password),
                subdomain="sub",
                connection=service.connection,
            )
            assert password not in repr(config)
            return AcmeDNS(config)

        for _ in range(2):
            await reach("acme-password").present(RECORD)
        await reach("acme-password").clean_up(RECORD)
        assert server.values == ["value-1", "value-1"]
        with pytest.raises(Forbidden, match="acme-dns answered 401: forbidden; correct username") as caught:
            await reach("wrong-password").present(RECORD)
        assert "wrong-password" not in str(caught.value)


class CloudflareServer:
    """Enough of Cloudflare's API: one zone and its records."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, str]] = {"old": {"type": "TXT", "name": RECORD.fqdn, "content": '"other"'}}
        self.failing: Reply | None = None

    def __call__(self, asked: Asked) -> Reply:
        if self.failing is not None:
            return self.failing
        if asked.headers["authorization"] != f"Bearer {TOKEN}":
            return Reply(403, {"success": False, "errors": [{"code": 9109, "message": "Invalid access token"}]})
        url = urlsplit(asked.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/v4/zones":
            return done([{"id": "z1"}] if query["name"] == "example.com" else [])
        assert url.path.startswith("/v4/zones/z1/dns_records")
        match asked.method:
            case "POST":
                return self._add(asked.json())
            case "DELETE":
                del self.records[url.path.rpartition("/")[2]]
                return done({})
        return done([{"id": key, **record} for key, record in self.records.items() if query["name"] == record["name"]])

    def _add(self, record: dict[str, str]) -> Reply:
        if any(record["content"] == each["content"] for each in self.records.values()):
            error = {"code": 81058, "message": "An identical record already exists."}
            return Reply(400, {"success": False, "errors": [error], "result": None})
        self.records[f"r{len(self.records)}"] = record
        return done({"id": "new"})


def done(result: object) -> Reply:
    return Reply(body={"success": True, "errors": [], "result": result})


def cloudflare(service: Service, token: str = TOKEN, **changes: str) -> Cloudflare:
    config = CloudflareConfig(
        api_token=Secret(token), api_url=f"{service.url}/v4", connection=service.connection, **changes
    )
    assert token not in repr(config)
    return Cloudflare(config)


async def test_cloudflare_has_records_added_and_deleted_one_by_one() -> None:
    server = CloudflareServer()
    with serving(server) as service:
        provider = cloudflare(service)
        for _ in range(2):
            await provider.present(RECORD)
        added = {"type": "TXT", "name": RECORD.fqdn, "content": '"value-1"', "ttl": 60}
        assert list(server.records.values())[1:] == [added]
        for _ in range(2):
            await provider.clean_up(RECORD)
        assert list(server.records) == ["old"]
        asked = len(service.asked)
        await cloudflare(service, zone_id="z1").present(RECORD)
        assert len(service.asked) == asked + 1


async def test_what_cloudflare_refuses_is_told_without_the_token() -> None:
    server = CloudflareServer()
    with serving(server) as service:
        with pytest.raises(Forbidden, match=r"Invalid access token \(9109\); give the token Zone:Read") as caught:
            await cloudflare(service, "wrong-token").present(RECORD)
        assert "wrong-token" not in str(caught.value)
        with pytest.raises(NotFound, match="no zone that"):
            await cloudflare(service).present(TXTRecord("_acme-challenge.example.org", "value"))
        server.failing = Reply(429, {}, {"Retry-After": "300"})
        with pytest.raises(TooManyRequests) as limited:
            await cloudflare(service).present(RECORD)
        assert limited.value.retry_after_s == 300
        server.failing = Reply(502, b"<html>")
        with pytest.raises(Transient):
            await cloudflare(service).clean_up(RECORD)


FIELDS: dict[str, Callable[[], msgspec.Struct]] = {
    "script": lambda: ScriptConfig(present=("/bin/true",)),
    "acme_dns": lambda: AcmeDNSConfig(server_url="u", username="u", password=Secret("p"), subdomain="s"),
    "cloudflare": lambda: CloudflareConfig(api_token=Secret("t")),
    "route53": lambda: Route53Config(access_key_id="k", secret_access_key=Secret("s")),
    "azure_dns": lambda: AzureDNSConfig(tenant_id="t", client_id="c", client_secret=Secret("s"), subscription_id="s"),
}
SECRETS = {
    "acme_dns": ("password",),
    "azure_dns": ("client_secret",),
    "cloudflare": ("api_token",),
    "google_cloud_dns": ("service_account",),
    "rfc2136": ("key_secret",),
    "route53": ("secret_access_key", "session_token"),
    "script": (),
}


def test_providers_are_found_by_their_type_and_mark_their_secrets() -> None:
    assert registry.known_types() == tuple(SECRETS)
    assert sorted(PROVIDERS) == list(SECRETS)
    assert {name: secret_fields(registry.config_type(name)) for name in registry.known_types()} == SECRETS
    for name, config in FIELDS.items():
        assert hasattr(registry.provider(name, config()), "clean_up")
    with pytest.raises(InvalidInput, match="known are acme_dns, azure_dns, cloudflare"):
        registry.config_type("route66")
    with pytest.raises(TypeError):
        registry.provider("script", FIELDS["cloudflare"]())


@pytest.mark.parametrize("name", registry.known_types())
def test_every_field_has_a_help_text(name: str) -> None:
    kind = msgspec.inspect.type_info(registry.config_type(name))
    assert isinstance(kind, msgspec.inspect.StructType)
    schema = msgspec.json.schema(registry.config_type(name), schema_hook=lambda _kind: {"type": "string"})
    definition = schema["$defs"][registry.config_type(name).__name__]
    assert [field for field, told in definition["properties"].items() if "description" not in told] == []
