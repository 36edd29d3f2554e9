"""What the list of certificates can be asked for, as conditions of its statement.

How a certificate stands is derived by the database from columns that are kept right with every change, and from the
coordinator's clock, by the same rules as in ``status``.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, get_type_hints

import msgspec

from coordinator.certificates.status import Life, Service
from coordinator.web.paging import PageQuery, filters_of
from coordinator.web.table import Strict
from core.errors import InvalidInput

MOST_WORDS, MOST_CHARACTERS = 10, 300
_WORD = re.compile(r"[^\s!-/:-@\[-`{-~]+")
"""What stands between white space and the punctuation of ASCII, as in the function ``search_words`` of the schema."""


class CertificateQuery(PageQuery):
    """Filters of the certificate list.

    ``q`` finds words of names and SANs by their beginnings; dots and hyphens part words. ``tag`` is ``key:value``.
    Moments have an offset. ``before`` is earlier than, ``after`` at that moment or later. How many a search finds may
    be an estimate: ``total_exact`` says whether it was counted.
    """

    q: str | None = None
    name: str | None = None
    common_name: str | None = None
    life: Life | None = None
    service: Service | None = None
    environment: str | None = None
    owner_id: str | None = None
    team_id: str | None = None
    issuer_id: str | None = None
    profile_id: str | None = None
    renewal_policy_id: str | None = None
    agent_id: str | None = None
    target_id: str | None = None
    tag: str | None = None
    expires_before: datetime | None = None
    expires_after: datetime | None = None
    renews_before: datetime | None = None
    created_before: datetime | None = None
    created_after: datetime | None = None
    updated_before: datetime | None = None
    updated_after: datetime | None = None
    archived: bool = False


_Moment = Annotated[datetime, msgspec.Meta(tz=True)] | None
_HINTS = get_type_hints(CertificateQuery)
CertificateFilter = msgspec.defstruct(
    "CertificateFilter",
    [
        (name, _Moment if _HINTS[name] == datetime | None else _HINTS[name], getattr(CertificateQuery(), name))
        for name in filters_of(CertificateQuery())
    ],
    bases=(Strict,),
    namespace={"__doc__": "The filters of the certificate list, as the list takes them in its query."},
)


def filters(wanted: msgspec.Struct, now: datetime) -> dict[str, Any]:
    """Return all filters of a ``CertificateFilter``; raise ``InvalidInput`` for a moment that no calendar has."""
    query = CertificateQuery(**msgspec.structs.asdict(wanted))
    for name, value in filters_of(query).items():
        if isinstance(value, datetime):
            try:
                value.astimezone(UTC)
            except OverflowError as error:
                raise InvalidInput.of(name, "is not a moment of our calendar, taken to UTC") from error
    return {**filters_of(query), **conditions(query, now)}


def conditions(query: CertificateQuery, now: datetime) -> dict[str, Any]:
    """Return the filters that are not just a column's value; those replace what the query says."""
    return {
        "q": None if query.q is None else words(query.q),
        "tag": None if query.tag is None else _tag(query.tag),
        **_life(query.life, now),
    }


def _life(life: Life | None, now: datetime) -> dict[str, Any]:
    if life in {None, "pending", "revoked"}:
        return {"life": None, "standing": life}
    return {"life": None, f"life_{life}": now}


def words(text: str) -> str:
    """Return a query that wants a word with each of these beginnings."""
    words = list(dict.fromkeys(_WORD.findall(text.lower())))
    if not words or len(words) > MOST_WORDS or len(text) > MOST_CHARACTERS:
        raise InvalidInput.of("q", f"has 1 to {MOST_WORDS} words in at most {MOST_CHARACTERS} characters")
    return " & ".join(f"'{word}':*" for word in words)


def _tag(text: str) -> dict[str, str]:
    key, colon, value = text.partition(":")
    if not colon or not key:
        raise InvalidInput.of("tag", f"is {text[:40]!r}; write it as key:value")
    return {key: value}
