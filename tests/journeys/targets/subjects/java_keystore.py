"""A server on Java, with a keystore that keytool made: the target's entry beside another one."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar

from benchmarks.lab.processes import Process, free_ports
from benchmarks.lab.servers import toml_string
from tests.journeys.targets.subject import PROBE_S, OneProgram

SOURCE = Path(__file__).with_name("KeystoreServer.java")
PASSWORD = "change-it"
JAVA = ("java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx64m")


@cache
def classes() -> Path:
    """Return a folder with the server, compiled once."""
    folder = Path(mkdtemp(prefix="certctl-java-"))
    subprocess.run(["javac", "-XDignore.symbol.file", "-d", str(folder), str(SOURCE)], check=True, capture_output=True)
    return folder


class JavaKeystore(OneProgram):
    """One server with one keystore of two entries, ``server`` and ``other``."""

    target_type = "java_keystore"
    kind: ClassVar[str] = "PKCS12"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self._port,) = free_ports(1)
        (folder / "live").mkdir()
        self.store = folder / "live" / "keystore"
        self._make_entries()
        self.mend()
        self.process = Process(folder.name, self._command(), folder / "server.log")

    @classmethod
    def version(cls) -> str:
        """Return the first line of ``java -version``."""
        said = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True)
        return said.stderr.splitlines()[0]

    def policy(self) -> str:
        """Return a service with two actions: the server is asked whether it can load the entry, and signalled."""
        reload = [self.gate.before("/usr/bin/pkill"), "-HUP", "-F", str(self.folder / "server.pid")]
        return (
            f"allowed_paths = [{toml_string(self.folder / 'live')}]\n"
            f"[services.app]\ntype = '{self.target_type}'\n"
            "validate_action = 'check-app'\nreload_action = 'reload-app'\n"
            f"[actions.check-app]\nargv = {json.dumps(self._asked('check'))}\n"
            f"[actions.reload-app]\nargv = {json.dumps(reload)}\n"
        )

    def config(self) -> dict[str, Any]:
        """Return the keystore, with its password."""
        return {
            "service": "app",
            "keystore_path": str(self.store),
            "keystore_type": self.kind,
            "keystore_password": PASSWORD,
            "create_keystore": False,
            "probe": {"port": self._port, "timeout_s": PROBE_S},
        }

    def pair(self) -> tuple[bytes, bytes]:
        """Return the target's entry, as Java reads it."""
        (self.folder / "show").write_text(f"{self.store}\nserver\n")
        shown = subprocess.run(self._asked("show"), check=True, capture_output=True).stdout
        end = shown.index(b"-----BEGIN PRIVATE")
        return shown[:end], shown[end:]

    def reload(self) -> None:
        """Reload it by a signal."""
        subprocess.run(["pkill", "-HUP", "-F", str(self.folder / "server.pid")], check=True)

    def damage(self) -> None:
        """Name a keystore that does not exist."""
        self._write(self.store.with_name("gone"), "server")

    def divert(self) -> None:
        """Name the other entry."""
        self._write(self.store, "other")

    def mend(self) -> None:
        """Name the target's entry."""
        self._write(self.store, "server")

    def _write(self, store: Path, alias: str) -> None:
        values = {"port": self._port, "keystore": store, "type": self.kind, "password": PASSWORD, "alias": alias}
        (self.folder / "server.properties").write_text("".join(f"{key}={value}\n" for key, value in values.items()))

    def _command(self) -> list[str]:
        return [*JAVA, "-cp", str(classes()), "KeystoreServer", str(self.folder)]

    def _asked(self, page: str) -> list[str]:
        return ["/usr/bin/curl", "-sSk", "--fail-with-body", f"https://127.0.0.1:{self._port}/{page}"]

    def _make_entries(self) -> None:
        """Let keytool make them, each with a certificate that ended long ago."""
        for alias in ("server", "other"):
            self._generate(self.store, alias)

    def _generate(self, store: Path, alias: str) -> None:
        where = ["-keystore", str(store), "-storetype", self.kind, "-storepass:env", "STORE_PASSWORD"]
        made = ["-alias", alias, "-keyalg", "EC", "-dname", "CN=placeholder", "-startdate", "-90d", "-validity", "30"]
        subprocess.run(
            ["keytool", "-genkeypair", *made, *where], check=True, capture_output=True, env={"STORE_PASSWORD": PASSWORD}
        )


class OldJavaKeystore(JavaKeystore):
    """The same with a JKS keystore."""

    variant = "JKS"
    quick = False
    kind = "JKS"


SUBJECTS = (JavaKeystore, OldJavaKeystore)
