"""The value of CAA's ``issue`` and of dns-persist-01's record: an issuer and parameters (RFC 8659 section 4.2)."""

from __future__ import annotations

import re
from typing import NamedTuple

_LABEL = r"[A-Za-z0-9](?:-*[A-Za-z0-9])*"
_VALUE = r"[\x21-\x3a\x3c-\x7e]*"
_PARAMETER = rf"{_LABEL}[ \t]*=[ \t]*{_VALUE}"
_PARAMETERS = rf"{_PARAMETER}(?:[ \t]*;[ \t]*{_PARAMETER})*"
_ISSUE_VALUE = re.compile(
    rf"[ \t]*(?:(?P<issuer>{_LABEL}(?:\.{_LABEL})*)[ \t]*)?(?:;[ \t]*(?:(?P<parameters>{_PARAMETERS})[ \t]*)?)?",
    re.ASCII,
)
MOST_CHARACTERS = 4096


class IssueValue(NamedTuple):
    """An issuer's domain name, empty for nobody, and the parameters in their order; name and tags in lower case."""

    issuer: str
    parameters: tuple[tuple[str, str], ...]

    def all(self, tag: str) -> list[str]:
        """Return the values of every parameter with this tag."""
        return [value for known, value in self.parameters if known == tag]


def read(text: str) -> IssueValue:
    """Read a value; raise ``ValueError`` for one that does not follow the grammar."""
    found = _ISSUE_VALUE.fullmatch(text) if len(text) <= MOST_CHARACTERS else None
    if found is None:
        raise ValueError("does not follow the grammar of RFC 8659 section 4.2")
    pairs = (part.split("=", 1) for part in (found["parameters"] or "").split(";") if part)
    parameters = tuple((tag.strip(" \t").lower(), value.strip(" \t")) for tag, value in pairs)
    return IssueValue((found["issuer"] or "").lower(), parameters)
