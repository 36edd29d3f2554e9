"""Java's own keytool, on files of a folder; passwords by files, as anybody should."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.connectors.keystores.entries import PASSWORD

KEYTOOL = "/usr/bin/keytool"


class Keytool:
    """Runs keytool on one keystore."""

    def __init__(self, path: Path, kind: str, *, old: bool = False) -> None:
        assert Path(KEYTOOL).exists(), f"{KEYTOOL} is needed: apt-get install default-jdk-headless"
        self.path, self.kind = path, kind
        self._java = ("-J-Dkeystore.pkcs12.legacy",) if old else ()
        self._password = path.with_name("password")
        self._password.write_text(PASSWORD)

    def run(self, *words: str) -> str:
        """Return what it prints; raise when it fails."""
        store = ("-keystore", str(self.path), "-storetype", self.kind, "-storepass:file", str(self._password))
        argv = [
            KEYTOOL,
            *self._java,
            "-J-Dfile.encoding=UTF-8",
            "-J-XX:TieredStopAtLevel=1",
            "-J-XX:+UseSerialGC",
            *words,
            *store,
        ]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def generate(self, alias: str, algorithm: str) -> None:
        """Make a key with a certificate of its own."""
        self.run("-genkeypair", "-alias", alias, "-keyalg", algorithm, "-dname", f"CN={alias}")

    def trust(self, alias: str, certificate: Path) -> None:
        """Add a certificate that is trusted."""
        self.run("-importcert", "-noprompt", "-alias", alias, "-file", str(certificate))

    def listed(self) -> dict[str, list[str]]:
        """Return the SHA-256 fingerprints of the certificates of each entry, keyed by kind and alias."""
        found: dict[str, list[str]] = {}
        for text in self.run("-list", "-v").split("Alias name: ")[1:]:
            kind = re.search(r"Entry type: (\S+)", text)
            assert kind is not None
            prints = [one.replace(":", "").lower() for one in re.findall(r"SHA256: (\S+)", text)]
            found[f"{kind[1]} {text.split()[0]}"] = prints
        return found

    def signs(self, alias: str) -> bool:
        """Say whether Java opens the key: it signs a request with it."""
        return "NEW CERTIFICATE REQUEST" in self.run("-certreq", "-alias", alias)
