"""Secrets in configurations: found by their marks, sealed for one agent and one field, never shown."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from core import hpke, marking
from core.errors import InvalidInput, Refused
from core.marking import IS_SET, SECRET
from core.secret import Secret
from tests.connectors.targets.secretive import SecretiveConfig

PATHS = ("pin", "login.password")
PLAIN = {"cert_path": "/srv/a.pem", "key_path": "/srv/a.key", "login": {"user": "ada"}}
WHOLE = {**PLAIN, "pin": "1234", "login": {"user": "ada", "password": "<password>"}}


def test_secrets_are_found_by_their_marks() -> None:
    assert marking.secret_fields(SecretiveConfig) == PATHS


def test_a_secret_in_a_collection_is_a_defect_of_the_connector() -> None:
    class Many(msgspec.Struct):
        pins: list[Annotated[Secret[str], SECRET]] = []

    class Named(msgspec.Struct):
        logins: dict[str, SecretiveConfig] = {}

    for kind in (Many, Named):
        with pytest.raises(TypeError, match="no path"):
            marking.secret_fields(kind)


def test_what_is_taken_apart_can_be_put_together() -> None:
    plain, secrets = marking.taken_apart(SecretiveConfig, WHOLE)
    assert plain == PLAIN
    assert secrets == {"pin": Secret("1234"), "login.password": Secret("<password>")}
    values = {path: value.reveal() for path, value in secrets.items() if value}
    assert marking.put_together(plain, values) == WHOLE
    assert marking.put_together({}, {"login.password": 1}) == {"login": {"password": 1}}
    config = marking.checked(SecretiveConfig, plain, secrets)
    assert config.pin == Secret("1234")
    assert "1234" not in repr(config)


@pytest.mark.parametrize(
    "config,kept",
    [({"pin": IS_SET}, ["pin"]), ({"pin": None}, []), ({}, []), ({"login": None}, []), ({"login": "text"}, [])],
)
def test_a_placeholder_stands_for_what_is_stored(config: dict[str, Any], kept: list[str]) -> None:
    _, secrets = marking.taken_apart(SecretiveConfig, config)
    assert [path for path, value in secrets.items() if value is None] == kept


@pytest.mark.parametrize("value", [3, True, {}, {"set": False}, {"set": True, "more": 1}, ["x"]])
def test_what_is_neither_text_nor_placeholder_is_named(value: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        marking.taken_apart(SecretiveConfig, {"login": {"user": "x", "password": value}})
    assert caught.value.errors[0].field == "config.login.password"


def test_redacted_shows_no_secret_whatever_stands_there() -> None:
    for secret in ("1234", 1234, ["1234"], {"a": "1234"}):
        shown = marking.redacted(SecretiveConfig, {**WHOLE, "pin": secret})
        assert shown == {**PLAIN, "pin": IS_SET, "login": {"user": "ada", "password": IS_SET}}
    assert marking.redacted(SecretiveConfig, PLAIN) == PLAIN
    assert WHOLE["pin"] == "1234", "what is redacted is a copy"


def test_the_schema_marks_secrets() -> None:
    definitions = marking.schema(SecretiveConfig)["$defs"]
    assert definitions["SecretiveConfig"]["properties"]["pin"]["secret"] is True
    assert definitions["Login"]["properties"]["password"] == {
        "type": "string",
        "description": "A password.",
        "secret": True,
    }


def test_a_sealed_secret_opens_for_its_agent_target_and_field_only() -> None:
    key, other = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    sealed = hpke.seal(public, Secret("grüße"), "tgt-1", "login.password")
    assert hpke.open_sealed(key, sealed, "tgt-1", "login.password") == Secret("grüße")
    assert hpke.seal(public, Secret("grüße"), "tgt-1", "login.password") != sealed
    wrong: list[tuple[X25519PrivateKey, bytes, str, str]] = [
        (other, sealed, "tgt-1", "login.password"),
        (key, sealed, "tgt-2", "login.password"),
        (key, sealed, "tgt-1", "pin"),
        (key, sealed[:-1] + bytes([sealed[-1] ^ 1]), "tgt-1", "login.password"),
        (key, sealed[:20], "tgt-1", "login.password"),
        (key, b"", "tgt-1", "login.password"),
    ]
    for attempt in wrong:
        with pytest.raises(Refused, match="enter it again"):
            hpke.open_sealed(*attempt)


@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31), bytes(31)])
def test_nothing_is_sealed_to_a_key_that_everybody_can_open(key: bytes) -> None:
    with pytest.raises(InvalidInput, match="sealing key"):
        hpke.seal(key, Secret("x"), "tgt-1", "pin")
