"""Typed reading of ``CERTCTL_*`` variables; every error names the variable and the remedy, and all are told at once."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from core.errors import FieldError, Misconfigured
from core.secret import Secret

T = TypeVar("T")
_DNS_PORT, _MOST_PORT = 53, 65535
_DURATION = re.compile(r"(?:(\d{1,8})d)?(?:(\d{1,8})h)?(?:(\d{1,8})m)?(?:(\d{1,8})s)?", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,18}")
_MAX_PORT = 65535


class Environment:
    """Reads variables by name, remembers which were asked for and what was wrong.

    An empty value counts as unset. Call ``finish`` after the last read.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self._asked: set[str] = set()
        self._errors: list[FieldError] = []

    def read(self, name: str, default: T, convert: Callable[[str], T]) -> T:
        """Return ``convert`` of the variable's text, ``default`` when unset; note a ``ValueError`` as its problem."""
        self._asked.add(name)
        text = self._variables.get(name, "").strip()
        if not text:
            return default
        try:
            return convert(text)
        except ValueError as error:
            self._errors.append(FieldError(name, str(error)))
            return default

    def text(self, name: str, default: str = "") -> str:
        """Return the variable as it is."""
        return self.read(name, default, str)

    def secret(self, name: str) -> Secret[str] | None:
        """Return the variable wrapped so that it never prints."""
        return self.read(name, None, Secret)

    def path(self, name: str, default: Path | None = None) -> Path | None:
        """Return an absolute path; ``~`` is expanded."""
        return self.read(name, default, lambda text: Path(text).expanduser().absolute())

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        """Return one of ``choices``."""

        def convert(text: str) -> str:
            if text.lower() not in choices:
                message = f"is {text!r}; use one of {', '.join(choices)}"
                raise ValueError(message)
            return text.lower()

        return self.read(name, default, convert)

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """Return a whole number between ``low`` and ``high``."""

        def convert(text: str) -> int:
            if not _NUMBER.fullmatch(text) or not low <= int(text) <= high:
                message = f"is {text[:40]!r}; use a whole number from {low} to {high}"
                raise ValueError(message)
            return int(text)

        return self.read(name, default, convert)

    def port(self, name: str, default: int) -> int:
        """Return a TCP port; 0 has the meaning that the setting's page gives it."""
        return self.integer(name, default, 0, _MAX_PORT)

    def duration(self, name: str, default: timedelta) -> timedelta:
        """Return a duration written like ``90s``, ``5m``, ``1h30m`` or ``7d``."""
        return self.read(name, default, parse_duration)

    def refuse(self, name: str, remedy: str) -> None:
        """Note an error when a variable that no longer exists is set."""
        self._asked.add(name)
        if self._variables.get(name, "").strip():
            self._errors.append(FieldError(name, remedy))

    def problem(self, name: str, problem: str) -> None:
        """Note an error that shows only when several settings are seen together."""
        self._errors.append(FieldError(name, problem))

    def is_wrong(self, name: str) -> bool:
        """Say whether a variable has a problem already, so that it is not told a second one that follows from it."""
        return any(error.field == name for error in self._errors)

    def finish(self, known: frozenset[str] = frozenset()) -> tuple[str, ...]:
        """Raise ``Misconfigured`` when anything was wrong; return warnings about variables that nothing reads.

        ``known`` are names that other programs of certctl read from the same environment.
        """
        if self._errors:
            detail = "; ".join(f"{error.field} {error.problem}" for error in self._errors)
            raise Misconfigured(detail, errors=tuple(self._errors))
        strangers = sorted(
            name for name in self._variables if name.startswith("CERTCTL_") and name not in self._asked | known
        )
        return tuple(self._stranger(name) for name in strangers)

    def _stranger(self, name: str) -> str:
        near = difflib.get_close_matches(name, self._asked, n=1)
        return f"{name} is set, but nothing reads it" + (f"; did you mean {near[0]}?" if near else "")


def parse_duration(text: str) -> timedelta:
    """Read ``90s``, ``5m``, ``1h30m`` or ``7d``; raise ``ValueError`` with the remedy."""
    match = _DURATION.fullmatch(text)
    if not text or not match:
        message = f"is {text[:40]!r}; write a duration like 90s, 5m, 1h30m or 7d"
        raise ValueError(message)
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def parse_resolver(text: str) -> tuple[str, int]:
    """Read ``address[:port]``, an IPv6 address with a port in brackets; raise ``ValueError`` with the remedy."""
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        host, port = text, str(_DNS_PORT)
    try:
        address = str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        address = ""
    if not address or not port.isdecimal() or not 0 < int(port) <= _MOST_PORT:
        message = f"holds {text[:60]!r}; write addresses like 192.0.2.53:53"
        raise ValueError(message)
    return address, int(port)
