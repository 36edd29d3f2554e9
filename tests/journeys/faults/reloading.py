"""An nginx that is reloaded by a program of the test's, which can be told to fail."""

from __future__ import annotations

from benchmarks.lab.servers import find_nginx
from tests.journeys.faults.ground import Trouble

NGINX = find_nginx() or "/usr/sbin/nginx"


class Reloading(Trouble):
    """An nginx that is reloaded by an action of agent.toml."""

    script = ":"
    timeout_s = 30

    def policy(self) -> str:
        reload = self.folder / f"{self.name}-reload"
        reload.write_text(
            f"#!/bin/sh\nif test -e {self.flag}; then\n{self.script}\nfi\n"
            f"exec {NGINX} -s reload -c {self.server.config}\n"
        )
        reload.chmod(0o755)
        action = f'[actions.{self.name}]\nargv = ["{reload}"]\ntimeout_s = {self.timeout_s}\n'
        return f'{super().policy()}reload_action = "{self.name}"\n{action}'
