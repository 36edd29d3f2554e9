"""The command as a process: what it loads, what a pipe sees, how it is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from tests.console import samples
from tests.console.double import Asked, Double, Reply, page

LOADED = """
import sys
sys.argv = ["certctl", *sys.argv[1:]]
from console.main import main
try:
    main()
finally:
    heavy = ("httpx", "rich", "trio", "h2", "pygments", "coordinator")
    print(*(name for name in heavy if sys.modules.get(name)), file=sys.stderr)
"""


def loaded(environment: dict[str, str], *arguments: str) -> tuple[int, list[str]]:
    """Run the command; return its exit code and which of the heavy modules it loaded."""
    command = [sys.executable, "-c", LOADED, *arguments]
    ended = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stderr.splitlines()[-1].split()


def test_help_and_wrong_usage_load_nothing_heavy(environment: dict[str, str]) -> None:
    assert loaded(environment, "--help") == (0, [])
    assert loaded(environment, "certificates", "create", "--help") == (0, [])
    assert loaded(environment, "certificates", "list", "--limit", "0") == (2, [])


def test_in_a_pipe_a_command_loads_httpx_alone(environment: dict[str, str], double: Double) -> None:
    assert loaded(environment, "status") == (0, ["httpx"])
    assert double.asked


def certctl(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "console.main", *arguments]
    return subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_epilog_tells_exit_codes_and_variables(environment: dict[str, str]) -> None:
    with certctl(environment, "--help") as process:
        shown = process.communicate()[0]
    assert "Exit codes:\n" in shown
    for name in ("CERTCTL_SERVER_URL", "CERTCTL_API_KEY", "CERTCTL_SERVER_CA_BUNDLE_PATH", "CERTCTL_SERVER_CA_SHA256"):
        assert name in shown


def test_the_key_is_no_option(environment: dict[str, str]) -> None:
    with certctl(environment, "status", "--api-key", "x") as process:
        process.communicate()
    assert process.returncode == 2


def test_an_output_without_unicode_is_no_reason_to_fail(environment: dict[str, str], double: Double) -> None:
    double.on("GET", "/api/v1/certificates", page([samples.certificate(name="証明書")]))
    with certctl({**environment, "PYTHONIOENCODING": "ascii"}, "certificates", "list") as process:
        shown = process.communicate()[0]
    assert process.returncode == 0
    assert "???" in shown


def test_ctrl_c_ends_the_waiting_and_says_that_the_work_goes_on(environment: dict[str, str], double: Double) -> None:
    renewed = {"certificate_id": "mc-api", "job_ids": ["job-1"], "run_id": "job-1"}
    double.on("POST", "/api/v1/certificates/mc-api/renew", renewed, status=202)
    idle = samples.run("running", samples.issuance(state="AwaitingCSR", timeline=samples.steps("queued")))

    def answer(asked: Asked) -> Reply:
        time.sleep(min(float(asked.query["wait"]), 3))
        return 200, idle

    double.on("GET", "/api/v1/runs/job-1", answer)
    with certctl(environment, "certificates", "renew", "mc-api", "--wait") as process:
        assert process.stdout is not None
        assert "queued" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "goes on" in said
    assert "Traceback" not in said
