"""Whole lists as CSV (RFC 4180) or JSON Lines, a piece at a time."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from coordinator.web.table import Streamed

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
TYPES = {"csv": "text/csv; charset=utf-8; header=present", "jsonl": "application/jsonl"}


def streamed(form: str, names: Sequence[str], pieces: AsyncIterator[Sequence[msgspec.Struct]]) -> Streamed:
    """Return an answer with these fields of every row."""
    rows = _csv(names, pieces) if form == "csv" else _jsonl(names, pieces)
    return Streamed(rows, TYPES[form])


async def _csv(names: Sequence[str], pieces: AsyncIterator[Sequence[msgspec.Struct]]) -> AsyncIterator[bytes]:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    async for rows in pieces:
        for row in rows:
            writer.writerow(_cell(getattr(row, name)) for name in names)
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()
    yield text.getvalue().encode()


async def _jsonl(names: Sequence[str], pieces: AsyncIterator[Sequence[msgspec.Struct]]) -> AsyncIterator[bytes]:
    encoder = msgspec.json.Encoder()
    async for rows in pieces:
        yield encoder.encode_lines([{name: getattr(row, name) for name in names} for row in rows])


def _cell(value: Any) -> str:
    """Return what stands in a cell; a spreadsheet shall not take it for a formula."""
    plain = msgspec.to_builtins(value)
    if plain is None:
        return ""
    text = plain if isinstance(plain, str) else msgspec.json.encode(plain).decode()
    return f"'{text}" if isinstance(plain, str) and text.startswith(_FORMULA) else text
