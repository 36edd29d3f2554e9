"""Postfix, with one file for key and chain and with two, looked at by STARTTLS."""

from __future__ import annotations

import shutil
import smtplib
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.lab.servers import Site, toml_string
from tests.journeys.targets.mail import MailServer
from tests.journeys.targets.subject import SITE, anything

BINARY = "/usr/sbin/postfix"
MASTER = "/usr/lib/postfix/sbin/master"
_SERVICES = """\
proxymap unix - - n - - proxymap
tlsmgr unix - - n 1000? 1 tlsmgr
anvil unix - - n - 1 anvil
rewrite unix - - n - - trivial-rewrite
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix(MailServer):
    """One Postfix that delivers no mail, with two smtpd listeners."""

    target_type = "postfix"
    protocol = "smtp"
    layout: ClassVar[str] = "combined"
    broken_cause = "the live configuration does not pass its check.*they are in the mail log"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.etc = folder / "etc"
        for made in (self.etc, self.home / "queue", self.home / "data"):
            made.mkdir()
        shutil.chown(self.home / "data", "postfix")
        (self.etc / "master.cf").write_text(
            f"127.0.0.1:{self.plain_port} inet n - n - - smtpd\n"
            f"127.0.0.1:{self.port()} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes\n{_SERVICES}"
        )
        if self.layout == "combined":
            for site in (self.site, self.other):
                site.cert_path.write_bytes(site.key_path.read_bytes() + site.cert_path.read_bytes())
                site.key_path.unlink()
        self.mend()

    @classmethod
    def version(cls) -> str:
        """Return what ``postconf mail_version`` says."""
        argv = ["/usr/sbin/postconf", "-d", "-h", "mail_version"]
        return f"postfix {subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()}"

    def argv(self) -> list[str]:
        """Return Postfix' own first process: ``postfix start-fg`` would not take it along when it is ended."""
        return [MASTER, "-c", str(self.folder / "etc"), "-s"]

    def start(self) -> None:
        """Let the check make the folders that are missing, and start it."""
        subprocess.run([BINARY, "-c", str(self.etc), "check"], check=True, capture_output=True)
        super().start()

    def policy(self) -> str:
        """Return a service whose binary is gated where it reloads."""
        return (
            f"allowed_paths = [{toml_string(self.folder)}]\n[services.postfix]\ntype = 'postfix'\n"
            f"binary = {toml_string(self.gate.before(BINARY, 'reload'))}\nconfig = {toml_string(self.etc)}\n"
        )

    def config(self) -> dict[str, Any]:
        """Return the one path, or both with their layout."""
        config = {**super().config(), "layout": self.layout}
        if self.layout == "combined":
            del config["key_path"], config["layout"]
        return config

    def pair(self) -> tuple[bytes, bytes]:
        """Return both files, or the one twice."""
        return self.site.cert_path.read_bytes(), self._key(self.site).read_bytes()

    @contextmanager
    def kept(self) -> Iterator[Callable[[], None]]:
        """Lend a connection on which TLS was begun; to be served is to be answered."""
        with smtplib.SMTP("127.0.0.1", self.plain_port, local_hostname=f"visitor.{SITE}", timeout=10) as client:
            client.starttls(context=anything())

            def again() -> None:
                code, said = client.noop()
                if code != 250:
                    raise smtplib.SMTPResponseException(code, said)

            yield again

    def reload(self) -> None:
        """Reload it by its own command."""
        subprocess.run([BINARY, "-c", str(self.etc), "reload"], check=True, capture_output=True)

    def damage(self) -> None:
        """Put a line into main.cf that is none."""
        with (self.etc / "main.cf").open("a") as main:
            main.write("smtpd_banner\n")

    def write(self, site: Site) -> None:
        """Write main.cf. A service that cannot start is tried again after a second."""
        if self.layout == "combined":
            files = f"smtpd_tls_chain_files = {site.cert_path}\n"
        else:
            files = f"smtpd_tls_cert_file = {site.cert_path}\nsmtpd_tls_key_file = {site.key_path}\n"
        (self.etc / "main.cf").write_text(
            f"compatibility_level = 3.6\nqueue_directory = {self.home}/queue\ndata_directory = {self.home}/data\n"
            f"maillog_file = {self.home}/mail.log\nmyhostname = {SITE}\nmydestination =\nlocal_recipient_maps =\n"
            "inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmynetworks = 127.0.0.0/8\nnotify_classes =\n"
            "alias_maps =\nsmtpd_junk_command_limit = 1000000\nservice_throttle_time = 1s\n"
            f"smtpd_tls_security_level = may\n{files}"
        )

    def _key(self, site: Site) -> Path:
        return site.cert_path if self.layout == "combined" else site.key_path


class SeparatePostfix(Postfix):
    """The same with certificate and key in two files."""

    variant = "separate"
    quick = False
    layout = "current"


SUBJECTS = (Postfix, SeparatePostfix)
