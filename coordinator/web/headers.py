"""Fields that every answer carries, whoever writes it: they keep browsers from guessing, storing and embedding it."""

from __future__ import annotations

SECURITY = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
HSTS = {"Strict-Transport-Security": "max-age=31536000"}
"""For HTTPS only: elsewhere it must not be sent (RFC 6797 section 7.2)."""
