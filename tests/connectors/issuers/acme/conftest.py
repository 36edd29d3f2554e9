"""A real authority for each file of tests, and an account there for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from connectors.issuers.acme.accounts import Account, Registration, find_or_register
from connectors.issuers.acme.client import Session, session
from connectors.issuers.acme.jose import AccountKey
from tests.connectors.issuers.acme.pebble import Pebble


@pytest.fixture(scope="module")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """An authority."""
    authority = Pebble(tmp_path_factory.mktemp("pebble"))
    try:
        yield authority.start()
    finally:
        authority.stop()


@pytest.fixture
async def client(pebble: Pebble) -> AsyncIterator[Session]:
    """A session with it."""
    async with session(pebble.directory_url, pebble.connection) as opened:
        yield opened


@pytest.fixture
async def account(client: Session) -> Account:
    """A new account."""
    return await find_or_register(client, AccountKey.new(), Registration(terms_agreed=True))
