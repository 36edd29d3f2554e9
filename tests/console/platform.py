"""A real coordinator and the real command, for what the double cannot show."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from typer.testing import CliRunner, Result

from benchmarks.lab.fleet import Coordinator
from benchmarks.lab.processes import stopped_at_the_end
from console.main import app
from tests.coordinator.world import ENCRYPTION_KEY


class Platform:
    """A coordinator that runs, and ``certctl`` as its administrator calls it."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        self.environment = {
            "CERTCTL_SERVER_URL": coordinator.url,
            "CERTCTL_API_KEY": (coordinator.data_dir / "admin.key").read_text().strip(),
            "CERTCTL_SERVER_CA_BUNDLE_PATH": str(coordinator.ca_path),
        }

    def certctl(self, *arguments: str, stdin: str | None = None, code: int = 0) -> Result:
        result = CliRunner().invoke(app, list(arguments), input=stdin, env=self.environment)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result


@contextlib.contextmanager
def running(folder: Path, dsn: str) -> Iterator[Platform]:
    """Run a coordinator on a database."""
    settings = {"CERTCTL_DATABASE_URL": dsn, "CERTCTL_CONFIG_ENCRYPTION_KEY": ENCRYPTION_KEY}
    coordinator = Coordinator(folder, settings)
    with stopped_at_the_end([coordinator.process]):
        yield Platform(coordinator.start())
