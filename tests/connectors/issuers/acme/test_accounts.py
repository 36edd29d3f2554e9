"""Accounts at a real authority; ZeroSSL's credentials from a stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qs

import pytest

from connectors.issuers.acme import zerossl
from connectors.issuers.acme.accounts import Account, Registration, find, find_or_register
from connectors.issuers.acme.client import Session, session
from connectors.issuers.acme.jose import AccountKey
from connectors.issuers.acme.problems import ExternalAccountRequired
from connectors.issuers.acme.transport import Answer
from connectors.issuers.acme.zerossl import ExternalAccount
from core.acme import encode
from core.errors import CertctlError, Forbidden, InvalidInput, Misconfigured, Refused, Transient
from core.keys import KeyAlgorithm
from core.secret import Secret
from tests.connectors.issuers.acme.pebble import EAB_KEY, EAB_KID, Pebble
from tests.connectors.issuers.acme.service import Asked, Reply, serving

pytestmark = pytest.mark.anyio
AGREED = Registration(terms_agreed=True, email="ops@example.com")


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.ECDSA_P256, KeyAlgorithm.ECDSA_P384, KeyAlgorithm.RSA_2048])
async def test_an_account_is_registered_once_with_its_contact(client: Session, algorithm: KeyAlgorithm) -> None:
    key = AccountKey.new(algorithm)
    assert await find(client, key) is None
    account = await find_or_register(client, key, AGREED)
    again = await find_or_register(client, AccountKey.load(key.pkcs8()), Registration())
    assert again.url == account.url
    assert await account.contacts() == ("mailto:ops@example.com",)
    await account.set_email("other@example.com")
    assert await account.contacts() == ("mailto:other@example.com",)


async def test_terms_are_agreed_to_by_a_person(client: Session) -> None:
    with pytest.raises(Misconfigured, match=r"agree to (data|https?):"):
        await find_or_register(client, AccountKey.new(), Registration())


async def test_a_contact_that_is_none_is_told(client: Session) -> None:
    with pytest.raises((InvalidInput, Refused), match="registering the account"):
        await find_or_register(client, AccountKey.new(), Registration(terms_agreed=True, email="no address"))


async def test_an_account_is_given_another_key(account: Account) -> None:
    new = AccountKey.new(KeyAlgorithm.ECDSA_P384)
    changed = await account.roll_over(new)
    assert changed.url == account.url
    await changed.contacts()
    assert await find(account.session, account.key) is None
    with pytest.raises(CertctlError):
        await account.contacts()
    # Whoever did not hear of it calls again with the same two keys.
    assert (await account.roll_over(new)).key is new


class Deaf(Account):
    """An account that does not hear how its key change went."""

    async def post(self, url: str, payload: object, *, what: str, accept: str = "application/json") -> Answer:
        await super().post(url, payload, what=what, accept=accept)
        raise Transient("the connection broke")


async def test_a_key_change_whose_answer_was_lost_is_found(account: Account) -> None:
    new = AccountKey.new()
    changed = await Deaf(account.session, account.key, account.url).roll_over(new)
    await changed.contacts()


async def test_a_key_of_another_account_is_not_taken(client: Session, account: Account) -> None:
    other = await find_or_register(client, AccountKey.new(), Registration(terms_agreed=True))
    with pytest.raises(CertctlError):
        await account.roll_over(other.key)
    await account.contacts()


async def test_a_closed_account_stays_closed(account: Account) -> None:
    await account.deactivate()
    with pytest.raises(CertctlError):
        await account.contacts()
    with pytest.raises((Forbidden, Refused)):
        await find_or_register(account.session, account.key, AGREED)


@pytest.fixture(scope="module")
def binding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """An authority that registers its customers only."""
    authority = Pebble(
        tmp_path_factory.mktemp("binding"),
        externalAccountBindingRequired=True,
        externalAccountMACKeys={EAB_KID: EAB_KEY},
    )
    try:
        yield authority.start()
    finally:
        authority.stop()


async def test_customers_are_registered_with_what_they_were_given(binding: Pebble) -> None:
    async with session(binding.directory_url, binding.connection) as client:
        assert (await client.directory()).meta.external_account_required
        with pytest.raises(ExternalAccountRequired, match="eab_kid and eab_hmac"):
            await find_or_register(client, AccountKey.new(), AGREED)
        given = ExternalAccount(EAB_KID, Secret(EAB_KEY))
        known = Registration(terms_agreed=True, external_account=given)
        await find_or_register(client, AccountKey.new(), known)
        for wrong in (ExternalAccount("kid-2", Secret(EAB_KEY)), ExternalAccount(EAB_KID, Secret(encode(b"x" * 32)))):
            with pytest.raises(CertctlError, match="registering the account") as caught:
                await find_or_register(
                    client, AccountKey.new(), Registration(terms_agreed=True, external_account=wrong)
                )
            assert wrong.hmac_key.reveal() not in str(caught.value)
    assert EAB_KEY not in repr(known)


def credentials(asked: Asked) -> Reply:
    """Answer as ZeroSSL does."""
    (email,) = parse_qs(asked.body.decode())["email"]
    if email == "ops@example.com":
        return Reply(body={"success": True, "eab_kid": EAB_KID, "eab_hmac_key": EAB_KEY})
    return Reply(body={"success": False, "error": {"code": 2900, "type": "missing_email"}})


async def test_zerossl_gives_credentials_for_an_address(binding: Pebble, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(credentials) as service:
        url = f"{service.url}/acme/eab-credentials-email"
        given = await zerossl.external_account("ops@example.com", url=url, connection=service.connection)
        assert (given.kid, given.hmac_key) == (EAB_KID, Secret(EAB_KEY))
        with pytest.raises(Refused, match="missing_email"):
            await zerossl.external_account("nobody@example.com", url=url, connection=service.connection)
        with pytest.raises(Misconfigured, match="set email"):
            await zerossl.external_account("", url=url)
        monkeypatch.setattr(zerossl, "is_zerossl", lambda directory: directory == binding.directory_url)
        wanted = Registration(
            terms_agreed=True, email="ops@example.com", zerossl_url=url, zerossl_connection=service.connection
        )
        async with session(binding.directory_url, binding.connection) as client:
            await find_or_register(client, AccountKey.new(), wanted)


@pytest.mark.parametrize(
    "url,expected",
    [
        ("https://acme.zerossl.com/v2/DV90", True),
        ("https://zerossl.com.evil.test/v2", False),
        ("https://notzerossl.com/", False),
        ("https://acme-v02.api.letsencrypt.org/directory", False),
    ],
)
def test_zerossl_is_known_by_its_host(url: str, expected: bool) -> None:
    assert zerossl.is_zerossl(url) is expected
