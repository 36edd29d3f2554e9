"""The console under test, and a coordinator's double with one of everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from typer.testing import CliRunner, Result

from console.main import app
from console.session import Session
from tests.console import samples
from tests.console.double import KEY, Asked, Double, Reply, page, running
from tests.postgres import postgres_server

__all__ = ["postgres_server"]

Certctl = Callable[..., Result]


@pytest.fixture
def _the_samples_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the console live at the samples' moment, however long the test run has been going on."""
    monkeypatch.setattr(Session, "now", property(lambda _session: samples.NOW))


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def double(authority: trustme.CA, _the_samples_time: None) -> Iterator[Double]:
    with running(authority) as double:
        furnish(double)
        yield double


def furnish(double: Double) -> None:
    """Give the double one of everything, under its id and in its list."""
    things = {
        "certificates": samples.certificate(),
        "agents": samples.agent(),
        "targets": samples.target(),
        "profiles": samples.profile(),
        "issuers": samples.issuer(),
        "jobs": samples.deployment(),
    }
    for collection, thing in things.items():
        double.on("GET", f"/api/v1/{collection}", page([thing]))
        double.on("GET", f"/api/v1/{collection}/{thing['id']}", thing)
    double.on("GET", "/api/v1/certificates", by_common_name)
    double.on("GET", "/api/v1/overview", samples.OVERVIEW)
    double.on("GET", "/api/v1/horizon", samples.HORIZON)
    double.on("GET", "/api/v1/audit", page([samples.event()]))
    double.on("GET", "/api/v1/enrollment-tokens", page([samples.token()]))
    double.on("GET", f"/api/v1/certificates/{samples.CERTIFICATE_ID}/versions", page([samples.version()]))
    double.on("GET", "/api/v1/approvals", page([samples.approval()]))
    double.on("GET", "/api/v1/approvals/apr-1", samples.approval())
    double.on("GET", "/api/v1/notifications", page([samples.notification()]))
    double.on("GET", "/api/v1/notifications/ntf-1", samples.notification())
    counts = {"unread": 3, "pending": 0, "failed": 1, "dead": 2}
    double.on("GET", "/api/v1/notifications/counts", counts)
    double.on("GET", "/ready", {"status": "ready", "database": "reachable"})
    double.on("GET", "/api/v1/version", {"version": "0.1.0", "protocol": 1})
    who = {
        "status": "authenticated",
        "kind": "key",
        "id": "key-1",
        "user": "admin",
        "role": "admin",
        "permissions": ["inventory:read"],
        "scope": {"teams": None, "environments": None},
        "expires_at": None,
        "session_id": None,
        "csrf_token": None,
    }
    double.on("GET", "/api/v1/auth/check", who)


def by_common_name(asked: Asked) -> Reply:
    wanted = asked.query.get("common_name", "api.example.com")
    return 200, page([samples.certificate()] if wanted == "api.example.com" else [])


@pytest.fixture
def environment(double: Double, authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    """What a user has set."""
    bundle = tmp_path / "root.pem"
    authority.cert_pem.write_to_path(bundle)
    return {
        "CERTCTL_SERVER_URL": double.url,
        "CERTCTL_API_KEY": KEY,
        "CERTCTL_SERVER_CA_BUNDLE_PATH": str(bundle),
        "CERTCTL_DATA_DIR": str(tmp_path / "none"),
    }


@pytest.fixture
def certctl(environment: dict[str, str]) -> Certctl:
    """The command, in this process; keyword arguments are variables."""

    def call(*arguments: str, stdin: str | None = None, **variables: str) -> Result:
        env: dict[str, str | None] = {**environment, **variables}
        result = CliRunner().invoke(app, list(arguments), input=stdin, env=env)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert KEY not in result.output
        return result

    return call
