"""Secrets: they never print, and what is sealed opens only with its key and in its place."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback

import msgspec
import pytest

from core.errors import Misconfigured
from core.sealing import Sealer
from core.secret import STARS, Secret

OLD, NEW = Secret(b"o" * 32), Secret(b"n" * 32)
PLAIN = Secret(b"the private key")
PLACE = "issuer_keys/iss-local/00ff"


def test_a_secret_prints_as_stars_wherever_it_is_put(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret("hunter2")
    printed = [str(secret), repr(secret), f"{secret}", f"{secret!r:>20}", str([secret]), str({"a": secret})]
    logging.getLogger().warning("%s %r", secret, secret)
    printed += traceback.format_exception_only(ValueError(secret))
    for text in (*printed, caplog.text):
        assert "hunter2" not in text
        assert STARS in text
    assert secret.reveal() == "hunter2"


def test_a_secret_does_not_travel() -> None:
    secret = Secret("hunter2")
    for way in (pickle.dumps, copy.deepcopy, json.dumps, msgspec.json.encode, msgspec.to_builtins):
        with pytest.raises(TypeError):
            way(secret)
    assert not hasattr(secret, "__dict__")


def test_secrets_are_equal_by_value_and_to_nothing_else() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


def test_what_is_sealed_opens_in_its_place_only() -> None:
    sealer = Sealer(NEW)
    envelope = sealer.seal(PLAIN, PLACE)
    assert PLAIN.reveal() not in envelope
    assert sealer.seal(PLAIN, PLACE) != envelope
    assert sealer.open(envelope, PLACE) == PLAIN
    assert Sealer(NEW).open(envelope, PLACE) == PLAIN
    with pytest.raises(Misconfigured, match="changed or moved"):
        sealer.open(envelope, "issuer_keys/iss-local/00fe")


def test_another_key_is_told_by_the_variables_name() -> None:
    envelope = Sealer(OLD).seal(PLAIN, PLACE)
    with pytest.raises(Misconfigured, match="CERTCTL_CONFIG_ENCRYPTION_KEY_PREVIOUS") as refused:
        Sealer(NEW).open(envelope, PLACE)
    assert "oooo" not in refused.value.detail


def test_the_previous_key_opens_and_the_current_one_seals() -> None:
    envelope = Sealer(OLD).seal(PLAIN, PLACE)
    rotating = Sealer(NEW, previous=OLD)
    assert rotating.open(envelope, PLACE) == PLAIN
    anew = rotating.seal(PLAIN, PLACE)
    assert Sealer(NEW).open(anew, PLACE) == PLAIN
    with pytest.raises(Misconfigured):
        Sealer(OLD).open(anew, PLACE)


def test_a_damaged_envelope_is_refused_wherever_it_is_damaged() -> None:
    sealer = Sealer(NEW)
    envelope = sealer.seal(PLAIN, PLACE)
    for place in range(len(envelope)):
        changed = envelope[:place] + bytes([envelope[place] ^ 1]) + envelope[place + 1 :]
        with pytest.raises(Misconfigured):
            sealer.open(changed, PLACE)
        with pytest.raises(Misconfigured):
            sealer.open(envelope[:place], PLACE)
