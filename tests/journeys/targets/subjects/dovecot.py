"""Dovecot, looked at by STARTTLS of IMAP."""

from __future__ import annotations

import imaplib
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.lab.servers import Site, toml_string
from tests.journeys.targets.mail import MailServer
from tests.journeys.targets.subject import anything

BINARY = "/usr/bin/doveadm"


class Dovecot(MailServer):
    """One Dovecot without users, with two IMAP listeners."""

    target_type = "dovecot"
    protocol = "imap"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "doveconf").symlink_to("/usr/bin/doveconf")  # it is looked for beside the gated doveadm
        self.mend()

    @classmethod
    def version(cls) -> str:
        """Return what ``dovecot --version`` says."""
        argv = ["/usr/sbin/dovecot", "--version"]
        return f"dovecot {subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()}"

    @property
    def conf(self) -> Path:
        """Return the one file of its configuration."""
        return self.folder / "dovecot.conf"

    def argv(self) -> list[str]:
        """Return Dovecot in the foreground."""
        return ["/usr/sbin/dovecot", "-F", "-c", str(self.conf)]

    def policy(self) -> str:
        """Return a service whose binary is gated where it reloads."""
        return (
            f"allowed_paths = [{toml_string(self.folder)}]\n[services.dovecot]\ntype = 'dovecot'\n"
            f"binary = {toml_string(self.gate.before(BINARY, 'reload'))}\nconfig = {toml_string(self.conf)}\n"
        )

    @contextmanager
    def kept(self) -> Iterator[Callable[[], None]]:
        """Lend a connection on which TLS was begun; to be served is to be answered."""
        client = imaplib.IMAP4("127.0.0.1", self.plain_port, timeout=10)
        try:
            client.starttls(anything())

            def again() -> None:
                word, said = client.noop()
                if word != "OK":
                    raise imaplib.IMAP4.error(said)

            yield again
        finally:
            client.shutdown()

    def reload(self) -> None:
        """Reload it by its own command."""
        subprocess.run([BINARY, "-c", str(self.conf), "reload"], check=True, capture_output=True)

    def damage(self) -> None:
        """Put a typing error into its configuration."""
        self.conf.write_text(self.conf.read_text().replace("protocols =", "protokols ="))

    def write(self, site: Site) -> None:
        """Write dovecot.conf."""
        self.conf.write_text(
            f"base_dir = {self.home}/run\nstate_dir = {self.home}\nlog_path = {self.home}/log\nprotocols = imap\n"
            "listen = 127.0.0.1\nssl = yes\nauth_mechanisms = plain\n"
            f"ssl_cert = <{site.cert_path}\nssl_key = <{site.key_path}\n"
            f"service imap-login {{\n  inet_listener imap {{\n    port = {self.plain_port}\n  }}\n"
            f"  inet_listener imaps {{\n    port = {self.port()}\n    ssl = yes\n  }}\n}}\n"
            "passdb {\n  driver = static\n  args = nologin\n}\nuserdb {\n  driver = static\n  args = uid=nobody\n}\n"
        )


SUBJECTS = (Dovecot,)
