"""Revoking at a real authority."""

from __future__ import annotations

import pytest

from connectors.issuers.acme.accounts import Account, Registration, find_or_register
from connectors.issuers.acme.client import Session
from connectors.issuers.acme.jose import AccountKey
from connectors.issuers.acme.orders import new_order
from connectors.issuers.acme.revocation import reason_code, revoke, revoke_with_key
from core.acme import HTTP_01
from core.certificates import read_certificate
from core.csr import build_csr
from core.errors import CertctlError, InvalidInput
from core.keys import KeyAlgorithm, PrivateKey, generate, to_pem
from core.names import parse_name
from tests.connectors.issuers.acme.obtaining import obtain
from tests.connectors.issuers.acme.pebble import HTTPAnswers, Pebble

pytestmark = pytest.mark.anyio
NAME = parse_name("revoked.example.test")


async def issue(pebble: Pebble, account: Account, key: PrivateKey) -> bytes:
    csr = build_csr(key, "", (NAME,))
    return (await obtain(await new_order(account, (NAME,)), csr, {HTTP_01: HTTPAnswers(pebble)})).chain[0]


def status(pebble: Pebble, leaf: bytes) -> tuple[str, int]:
    said = pebble.manage(f"cert-status-by-serial/{read_certificate(leaf).serial}").json()
    return said["Status"], said.get("Reason", -1)


async def test_an_account_revokes_what_it_has_ordered_and_twice_is_fine(pebble: Pebble, account: Account) -> None:
    leaf = await issue(pebble, account, generate(KeyAlgorithm.ECDSA_P256))
    assert status(pebble, leaf)[0] == "Valid"
    assert await revoke(account, leaf, "SUPERSEDED")
    assert status(pebble, leaf) == ("Revoked", 4)
    assert not await revoke(account, leaf, "superseded")


async def test_whoever_has_the_key_revokes_without_an_account(
    pebble: Pebble, client: Session, account: Account
) -> None:
    key = generate(KeyAlgorithm.RSA_2048)
    leaf = await issue(pebble, account, key)
    assert await revoke_with_key(client, AccountKey.load(to_pem(key)), leaf, "keyCompromise")
    assert status(pebble, leaf) == ("Revoked", 1)
    assert not await revoke_with_key(client, AccountKey.load(to_pem(key)), leaf)


async def test_a_stranger_does_not_revoke(pebble: Pebble, client: Session, account: Account) -> None:
    leaf = await issue(pebble, account, generate(KeyAlgorithm.ECDSA_P256))
    other = await find_or_register(client, AccountKey.new(), Registration(terms_agreed=True))
    with pytest.raises(CertctlError, match="revoking the certificate"):
        await revoke(other, leaf)
    with pytest.raises(CertctlError):
        await revoke_with_key(client, AccountKey.new(), leaf)
    assert status(pebble, leaf)[0] == "Valid"


def test_reasons_are_known_by_name_in_any_case() -> None:
    assert [reason_code(name) for name in ("", "unspecified", "KEYCOMPROMISE", "removeFromCRL")] == [None, 0, 1, 8]
    with pytest.raises(InvalidInput, match="use one of unspecified, keyCompromise"):
        reason_code("bored")
