"""What the issuance gate asks of an authority."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from core.keys import PublicKey
from core.names import Name


@dataclass(frozen=True)
class Order:
    """One leaf certificate, decided in full by the gate: nothing of a CSR but its key comes through.

    ``extended_key_usages`` are dotted OIDs. ``aia_url`` and ``cdp_url`` are left out of the certificate when empty.
    With ``must_staple`` clients refuse a server that staples no OCSP answer (RFC 7633).
    """

    serial: int
    common_name: str
    names: tuple[Name, ...]
    public_key: PublicKey
    not_before: datetime
    not_after: datetime
    extended_key_usages: tuple[str, ...]
    aia_url: str = ""
    cdp_url: str = ""
    must_staple: bool = False
