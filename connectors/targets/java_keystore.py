"""One entry in a keystore of Java: a PKCS#12 or JKS file, in which all other entries stay as they are.

Any server on Java reads it (Tomcat, Jetty, Kafka, Jenkins); how this one is checked and reloaded is known to its host
alone, by named actions of agent.toml. The file is written without Java, or by keytool where that is asked for; no
password is ever on a command line. There is no trial of the staged keystore. JCEKS, BCFKS and keystores in hardware
are not written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from connectors.keystores.entry import Entry, KeystoreError
from connectors.keystores.installed import Alias, Encryption, check_mode, check_password, keystore_file
from connectors.targets.base import FileSpec, FileTargetConfig, HostName, Material, Role, Runner, Service
from connectors.targets.pem import Chain
from core.secret import Secret

_JKS_MAGIC = b"\xfe\xed\xfe\xed"


class JavaKeystoreConfig(FileTargetConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which entry of which keystore, and what opens it."""

    service: Annotated[HostName, msgspec.Meta(description="Name of the server in the host's agent.toml.")] = (
        "java_keystore"
    )
    keystore_path: Annotated[str, msgspec.Meta(description="The keystore's file, absolute.", max_length=4000)]
    keystore_type: Annotated[
        Literal["PKCS12", "JKS"], msgspec.Meta(description="Format of the keystore; JKS for Java 8 and before.")
    ] = "PKCS12"
    keystore_password: Annotated[
        Secret[str], msgspec.Meta(description="Password of the keystore.", extra_json_schema={"secret": True})
    ]
    key_password: Annotated[
        Secret[str] | None,
        msgspec.Meta(
            description="Password of the entry's key in a JKS keystore; default: the keystore's.",
            extra_json_schema={"secret": True},
        ),
    ] = None
    alias: Annotated[Alias, msgspec.Meta(description="Name of the entry; Java does not tell capitals apart.")] = (
        "server"
    )
    create_keystore: Annotated[
        bool, msgspec.Meta(description="Make the keystore where there is none; false: refuse the deployment.")
    ] = True
    encryption: Encryption = "modern"
    writer: Annotated[
        Literal["library", "keytool"],
        msgspec.Meta(description="library: certctl writes it, without Java; keytool: the host's own keytool does."),
    ] = "library"
    chain: Annotated[
        Chain,
        msgspec.Meta(description="What follows the leaf: intermediates (without_root), the root too, or nothing."),
    ] = "without_root"
    layout: Annotated[
        Literal["combined"], msgspec.Meta(description="A keystore is one file, switched by one rename.")
    ] = "combined"

    def __post_init__(self) -> None:
        """Hold the fields against each other; the messages start with the field at fault."""
        if not self.keystore_path.startswith("/"):
            raise ValueError("keystore_path: must be an absolute path")
        check_mode(self)
        check_password("keystore_password", self.keystore_password)
        if self.keystore_type == "PKCS12" and self.encryption == "modern" and not _is_ascii(self.keystore_password):
            raise ValueError(
                "keystore_password: must be ASCII, as Java takes no other for AES in PKCS12; choose another"
            )
        if self.key_password is not None:
            check_password("key_password", self.key_password)
            if self.keystore_type == "PKCS12":
                raise ValueError("key_password: Java has one password for a PKCS12 keystore and its keys; remove it")
        if self.keystore_type == "JKS" and self.encryption != "modern":
            raise ValueError("encryption: has no meaning for JKS, which has but one; remove it")


class JavaKeystoreTarget:
    """Describes installations in keystores of Java."""

    config_type = JavaKeystoreConfig

    def files(self, config: JavaKeystoreConfig, material: Material) -> tuple[FileSpec, ...]:
        """Return the keystore."""
        entry = Entry.of(config.alias, material, config.chain)

        def change(existing: bytes | None) -> bytes:
            return _changed(config, entry, existing)

        return (keystore_file(config, config.keystore_path, "config.keystore_password", change),)

    def commands(self, _service: Service) -> None:
        """Return none: only the host knows its commands."""

    async def staged_check(
        self, _service: Service, _staged: Sequence[Mapping[Role, Path]], _scratch: Path, _runner: Runner
    ) -> None:
        """Return none: a trial would need the password on its way."""


TARGET = JavaKeystoreTarget()


def _is_ascii(password: Secret[str]) -> bool:
    return password.reveal().isascii()


def _changed(config: JavaKeystoreConfig, entry: Entry, existing: bytes | None) -> bytes:
    # The parsers come with the agent; a coordinator knows this type without them.
    from connectors.keystores import keytool, pkcs12  # noqa: PLC0415 - see above

    if existing is None and not config.create_keystore:
        raise KeystoreError("does not exist, and create_keystore is false; make it with keytool, or set it to true")
    found = config.keystore_type if existing is None else "JKS" if existing.startswith(_JKS_MAGIC) else "PKCS12"
    if found != config.keystore_type:
        raise KeystoreError(
            f"is of type {found}; set keystore_type to that, or convert it with keytool -importkeystore"
        )
    key_password = config.key_password or config.keystore_password
    if config.writer == "keytool":
        kind, legacy = config.keystore_type, config.encryption == "legacy"
        return keytool.put(existing, entry, keytool.Keystore(kind, config.keystore_password, key_password, legacy))
    if config.keystore_type == "JKS":
        return _jks()(existing, entry, config.keystore_password, key_password)
    return pkcs12.put(existing, entry, pkcs12.Protection(config.keystore_password, config.encryption == "legacy"))


def _jks() -> Callable[[bytes | None, Entry, Secret[str], Secret[str]], bytes]:
    """Return what changes JKS keystores; its library is an extra, since it needs a C compiler where it is installed."""
    try:
        from connectors.keystores.jks import put  # noqa: PLC0415 - see above
    except ModuleNotFoundError as error:
        remedy = "run: pip install 'certctl[jks]' (it needs a C compiler), or convert it to PKCS12"
        raise KeystoreError(f"is of type JKS, for which a library is not installed; {remedy}") from error
    return put
