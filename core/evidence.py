"""What is kept of a look at the network, which ``connectors.validation`` takes: what was asked, and what came back."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec

MOST_SHOWN = 200
"""Characters of a foreign answer that are kept: enough to see what it was, too few to read something by."""

ErrorType = Literal[
    "caa", "connection", "dns", "incorrectResponse", "malformed", "serverInternal", "tls", "unauthorized"
]
"""The error types of RFC 8555 section 6.7 that a validation ends with."""
Text = Annotated[str, msgspec.Meta(max_length=1000)]
Texts = Annotated[tuple[Text, ...], msgspec.Meta(max_length=100)]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked and what came back, small enough to be kept with the challenge.

    ``source`` is the host that asked, ``addresses`` are those that were dialled, in this order, ``answer`` is what
    came back, at most 200 printable characters of it.
    """

    challenge: Text
    name: Text
    asked: Text
    source: Text
    at: datetime
    elapsed_ms: int
    addresses: Texts = ()
    resolvers: Texts = ()
    redirects: Texts = ()
    answer: Annotated[str, msgspec.Meta(max_length=MOST_SHOWN)] = ""
