"""The main road: a name is asked for, a key is made where it is used, and strangers see the certificate served."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID

from benchmarks.lab.fleet import Agent
from benchmarks.lab.postgres import PASSWORD, OwnPostgres
from benchmarks.lab.processes import free_ports, wait_until
from benchmarks.lab.servers import Nginx
from benchmarks.lab.wire import Seen
from core.keys import KeyAlgorithm
from tests.journeys.stage import Journey, Stage, fetch, openssl_verify, pair_is_consistent

pytestmark = pytest.mark.timeout(180)
SITE = "shop.example.test"
LAYOUTS = ("current", "separate", "combined")


def test_from_a_wish_to_a_served_certificate_and_on_through_restarts(stage: Stage) -> None:
    """One coordinator on its embedded database, one agent, one nginx.

    A certificate is asked for and served; renewed on demand; the agent restarts as the same agent and renews again; the
    coordinator restarts with its database and renews again. Every time an outside client checks chain, name and dates,
    and each time there is a new key.
    """
    coordinator, server = stage.coordinator(), stage.nginx("web", SITE)
    listen = f"127.0.0.1:{free_ports(1)[0]}"
    agent = stage.agent("edge", coordinator, server.policy(), CERTCTL_AGENT_LISTEN=listen)
    journey, agent_id = Journey(coordinator), agent.agent_id
    certificate_id = journey.want(SITE, journey.target(agent, server, SITE))
    seen = [journey.served(server, SITE)]
    journey.settled(certificate_id)
    _relying_parties_find_what_the_leaf_names(stage, journey, seen[0])
    _the_local_page_answers(f"http://{listen}", agent_id)

    journey.renew(certificate_id)
    seen.append(journey.served(server, SITE, instead_of=seen[-1]))
    journey.settled(certificate_id)

    assert agent.process.stop() == 0
    agent.process.set_variable("CERTCTL_AGENT_BOOTSTRAP_TOKEN", None)
    agent.start()
    journey.renew(certificate_id)
    seen.append(journey.served(server, SITE, instead_of=seen[-1]))
    journey.settled(certificate_id)

    assert coordinator.process.stop() == 0
    coordinator.start()
    journey = Journey(coordinator)
    journey.renew(certificate_id)
    seen.append(journey.served(server, SITE, instead_of=seen[-1]))
    journey.settled(certificate_id)

    assert agent.agent_id == agent_id
    assert len(journey.api.get("/api/v1/agents")["data"]) == 1
    versions = journey.versions(certificate_id)
    assert [version["fingerprint"] for version in reversed(versions)] == [each.fingerprint for each in seen]
    assert [version["serial"] for version in reversed(versions)] == [each.serial for each in seen]
    assert len({version["spki_sha256"] for version in versions}) == len(seen)
    assert len(journey.api.get("/api/v1/jobs", certificate_id=certificate_id)["data"]) == 2 * len(seen)


def _relying_parties_find_what_the_leaf_names(stage: Stage, journey: Journey, seen: Seen) -> None:
    """AIA and CDP answer over plain HTTP, and OpenSSL accepts the chain with the CRL."""
    extensions = x509.load_der_x509_certificate(seen.der).extensions
    access = extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    (issuer_url,) = [
        entry.access_location.value
        for entry in access
        if entry.access_method == AuthorityInformationAccessOID.CA_ISSUERS
    ]
    (point,) = extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    (crl_url,) = [name.value for name in point.full_name or ()]
    assert issuer_url.startswith("http://")
    assert crl_url.startswith("http://")
    issuer = x509.load_der_x509_certificate(fetch(issuer_url))
    assert issuer == x509.load_pem_x509_certificate(journey.root_pem.encode())
    crl = fetch(crl_url)
    checked = openssl_verify(stage.folder, seen.der, journey.root_pem, crl, SITE)
    assert checked.returncode == 0, checked.stderr
    other = openssl_verify(stage.folder, seen.der, journey.root_pem, crl, "other.example.test")
    assert other.returncode != 0


def _the_local_page_answers(url: str, agent_id: str) -> None:
    with httpx.Client(base_url=url, trust_env=False) as page:
        assert page.get("/health").json() == {"status": "healthy", "last_error": ""}
        status = page.get("/status").json()
        metrics = page.get("/metrics")
        assert page.post("/status").status_code == 405
    assert (status["agent_id"], status["connected"], status["in_hand"]) == (agent_id, True, {})
    assert (status["ended"]["issued"], status["ended"]["served"]) == (1, 1)
    assert 'certctl_agent_jobs_ended_total{outcome="served"} 1' in metrics.text
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")


@dataclass
class Wanted:
    """One combination of key and layout."""

    algorithm: KeyAlgorithm
    layout: str
    certificate_id: str = ""
    seen: Seen | None = None

    @property
    def site(self) -> str:
        """Return its name."""
        return f"{self.algorithm}.{self.layout}.example.test"


def test_every_key_and_every_layout_on_a_postgresql_of_ones_own(stage: Stage, tmp_path: Path) -> None:
    """Eighteen names on one nginx: six kinds of key, three layouts of files, all asked for at once, then all renewed.

    The database is a PostgreSQL server that somebody else runs, with a password over TCP.
    """
    database = OwnPostgres(tmp_path / "database")
    stage.keep(database.process)
    database.start()
    profile = {"id": "prof-all", "name": "all", "max_lifetime_s": 86400, "key_algorithms": list(KeyAlgorithm)}
    coordinator = stage.coordinator(CERTCTL_DATABASE_URL=database.url)
    wishes = [Wanted(*pair) for pair in itertools.product(KeyAlgorithm, LAYOUTS)]
    server = _nginx_for(stage, wishes)
    agent, journey = stage.agent("edge", coordinator, server.policy()), Journey(coordinator)
    journey.api.post("/api/v1/profiles", profile)
    for wanted in wishes:
        without_key = {"key_path": None} if wanted.layout == "combined" else {}
        target_id = journey.target(agent, server, wanted.site, layout=wanted.layout, **without_key)
        wanted.certificate_id = journey.want(
            wanted.site, target_id, profile_id="prof-all", key_algorithm=wanted.algorithm
        )
    for wanted in wishes:
        wanted.seen = journey.served(server, wanted.site, deadline_s=90)
        assert _key_fits(wanted), wanted.site
        journey.settled(wanted.certificate_id)
        assert pair_is_consistent(server, wanted.site)
        _files_lie_as_the_layout_says(server, wanted)
    for wanted in wishes:
        journey.renew(wanted.certificate_id)
    for wanted in wishes:
        wanted.seen = journey.served(server, wanted.site, instead_of=wanted.seen, deadline_s=90)
        journey.settled(wanted.certificate_id)
        assert [version["generation"] for version in journey.versions(wanted.certificate_id)] == [2, 1]
    assert PASSWORD not in coordinator.process.log.read_text()


def _nginx_for(stage: Stage, wishes: list[Wanted]) -> Nginx:
    """Start one nginx; where the files are to be combined, its two directives lead to the same file."""
    server = Nginx("web", stage.folder / "web", free_ports(1)[0], [wanted.site for wanted in wishes])
    for wanted in wishes:
        if wanted.layout == "combined":
            files = server.sites[wanted.site]
            both = files.key_path.read_bytes() + files.cert_path.read_bytes()
            files.cert_path.chmod(0o600)
            files.cert_path.write_bytes(both)
            files.key_path.unlink()
            files.key_path.symlink_to(files.cert_path.name)
    stage.keep(server.process)
    server.start()
    return server


def _key_fits(wanted: Wanted) -> bool:
    assert wanted.seen is not None
    match x509.load_der_x509_certificate(wanted.seen.der).public_key():
        case ec.EllipticCurvePublicKey() as key:
            return wanted.algorithm == f"ecdsa-p{key.curve.key_size}"
        case rsa.RSAPublicKey() as key:
            return wanted.algorithm == f"rsa-{key.key_size}"
        case ed25519.Ed25519PublicKey():
            return wanted.algorithm == KeyAlgorithm.ED25519
        case _:
            return False


def _files_lie_as_the_layout_says(server: Nginx, wanted: Wanted) -> None:
    files = server.sites[wanted.site]
    assert files.cert_path.is_symlink() == (wanted.layout == "current")
    holds_key = b"PRIVATE KEY" in files.cert_path.read_bytes()
    assert holds_key == (wanted.layout == "combined")
    assert files.key_path.stat().st_mode & 0o077 == 0


def test_one_certificate_on_two_hosts_has_a_key_on_each(stage: Stage, empty_database_url: str) -> None:
    """Two agents hold the same certificate: two keys, two versions, both served; a renewal renews both."""
    coordinator = stage.coordinator(CERTCTL_DATABASE_URL=empty_database_url)
    servers = [stage.nginx(f"web-{number}", SITE) for number in (1, 2)]
    agents = [stage.agent(server.name, coordinator, server.policy()) for server in servers]
    journey = Journey(coordinator)
    targets = [journey.target(agent, server, SITE) for agent, server in zip(agents, servers, strict=True)]
    certificate_id = journey.want(SITE, *targets)
    first = [journey.served(server, SITE) for server in servers]
    journey.settled(certificate_id)
    journey.renew(certificate_id)
    second = [journey.served(server, SITE, instead_of=old) for server, old in zip(servers, first, strict=True)]
    status = journey.settled(certificate_id)["status"]

    assert (status["served_on"], status["wanted_on"]) == (2, 2)
    assert len({seen.fingerprint for seen in first + second}) == 4
    versions = journey.versions(certificate_id)
    assert {(version["holder"], version["generation"]) for version in versions} == {
        (agent.agent_id, generation) for agent in agents for generation in (1, 2)
    }
    assert len({version["spki_sha256"] for version in versions}) == 4
    keys = [{path.name for path in agent.state_dir.glob("keys/*/*") if "." not in path.name} for agent in agents]
    assert [len(each) for each in keys] == [2, 2]
    assert not keys[0] & keys[1]


def test_a_stop_in_the_middle_of_a_deployment_finishes_it(stage: Stage, empty_database_url: str) -> None:
    """SIGTERM reaches the agent while nginx is being reloaded: the certificate is served and reported, then it ends."""
    coordinator = stage.coordinator(CERTCTL_DATABASE_URL=empty_database_url)
    server = stage.nginx("web", SITE)
    entered, go_on = stage.folder / "entered", stage.folder / "go-on"
    binary = server.process.argv[0]
    script = f"touch {entered}; until test -e {go_on}; do sleep 0.02; done; exec {binary} -s reload -c {server.config}"
    action = f"\n[actions.slow]\nargv = ['/bin/sh', '-c', '{script}']\n"
    agent = stage.agent("edge", coordinator, f'{server.policy()}reload_action = "slow"\n{action}')
    journey = Journey(coordinator)
    certificate_id = journey.want(SITE, journey.target(agent, server, SITE))
    wait_until("the reload begins", entered.exists)

    agent.process.signal(15)
    wait_until("the agent notices", lambda: "stopping" in agent.process.tail())
    assert agent.process.running()
    go_on.touch()
    assert agent.process.wait(20) == 0
    journey.served(server, SITE)
    assert journey.settled(certificate_id, deadline_s=5)["status"]["service"] == "served"
    assert list((agent.state_dir / "journal").iterdir()) == []


def _policy_of_an_idle_host(folder: Path) -> str:
    return f"allowed_paths = ['{folder}']\n"


def _refusal(agent: Agent) -> str:
    """Start an agent that shall not start; return what it says."""
    agent.process.start()
    assert agent.process.wait(30) == 2
    assert agent.agent_id == ""
    return agent.process.tail(3)


def test_who_may_become_an_agent(stage: Stage, empty_database_url: str) -> None:
    """First contact: one-time tokens, the static token, both ways to pin the coordinator, and what is refused."""
    static = "bootstrap-of-a-closed-network"
    coordinator = stage.coordinator(CERTCTL_DATABASE_URL=empty_database_url, CERTCTL_AGENT_BOOTSTRAP_TOKEN=static)
    policy, api = _policy_of_an_idle_host(stage.folder), coordinator.api()
    first = stage.agent("first", coordinator, policy)
    used = first.env["CERTCTL_AGENT_BOOTSTRAP_TOKEN"]

    thief = stage.unstarted_agent("thief", coordinator, policy, CERTCTL_AGENT_BOOTSTRAP_TOKEN=used)
    assert "token is not known or was used" in _refusal(thief)
    guesser = stage.unstarted_agent("guesser", coordinator, policy, CERTCTL_AGENT_BOOTSTRAP_TOKEN="cte_guessed")
    assert "token is not known or was used" in _refusal(guesser)
    namesake = stage.unstarted_agent("namesake", coordinator, policy, CERTCTL_AGENT_NAME="first")
    assert "'first' is enrolled already" in _refusal(namesake)

    stage.agent("second", coordinator, policy, CERTCTL_AGENT_BOOTSTRAP_TOKEN=static)
    fingerprint = x509.load_pem_x509_certificate(coordinator.ca_path.read_bytes()).fingerprint(hashes.SHA256()).hex()
    pin = {"CERTCTL_SERVER_CA_BUNDLE_PATH": "", "CERTCTL_AGENT_BOOTSTRAP_TOKEN": static}
    stage.agent("pinned", coordinator, policy, **pin, CERTCTL_SERVER_CA_SHA256=fingerprint)
    mistaken = stage.unstarted_agent("mistaken", coordinator, policy, **pin, CERTCTL_SERVER_CA_SHA256="ab" * 32)
    assert "CERTCTL_SERVER_CA_SHA256 is not the hash of the root" in _refusal(mistaken)

    double = stage.unstarted_agent("double", coordinator, policy, CERTCTL_STATE_DIR=str(first.state_dir))
    double.process.start()
    assert double.process.wait(30) == 2
    assert f"another agent runs on {first.state_dir}" in double.process.tail(3)
    assert first.process.running()

    names = {agent["name"] for agent in api.get("/api/v1/agents")["data"]}
    assert names == {"first", "second", "pinned"}
    assert not any(static in process.tail(1000) or used in process.tail(1000) for process in stage.processes)
