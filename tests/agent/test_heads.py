"""Heads that polls brought: a line for each new one, in a file that stays short."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import structlog

from agent import heads
from agent.heads import FILE, HeadLog
from core.wire import AuditHead


def head(number: int, letter: str = "a") -> AuditHead:
    return AuditHead(number, letter * 64, 3, "key", b"s" * 64, datetime(2026, 1, 1, tzinfo=UTC))


def numbers(folder: Path) -> list[int]:
    lines = (folder / FILE).read_bytes().splitlines()
    return [msgspec.json.decode(line, type=AuditHead).number for line in lines]


def test_each_new_head_is_a_line_once(tmp_path: Path) -> None:
    kept = HeadLog(tmp_path)
    for found in (None, head(1), head(1), head(2), None, head(2), head(5)):
        kept.keep(found)
    assert numbers(tmp_path) == [1, 2, 5]
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_the_file_goes_on_after_a_restart_and_after_half_a_line(tmp_path: Path) -> None:
    HeadLog(tmp_path).keep(head(1))
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"number": 2, "he')
    HeadLog(tmp_path).keep(head(3))
    lines = (tmp_path / FILE).read_bytes().splitlines()
    assert len(lines) == 3
    assert msgspec.json.decode(lines[2], type=AuditHead).number == 3


def test_the_file_stays_short_and_keeps_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "MOST_BYTES", 4096)
    kept = HeadLog(tmp_path)
    for number in range(1, 200):
        kept.keep(head(number))
        assert (tmp_path / FILE).stat().st_size <= 4096
    found = numbers(tmp_path)
    assert found[-1] == 199
    assert found == list(range(found[0], 200))
    assert len(found) > 3


def test_a_chain_that_goes_back_is_told_and_kept(tmp_path: Path) -> None:
    kept = HeadLog(tmp_path)
    kept.keep(head(7))
    with structlog.testing.capture_logs() as logs:
        kept.keep(head(7, "b"))
        kept.keep(head(6))
    assert [line["event"] for line in logs] == ["audit_head_went_back"] * 2
    assert numbers(tmp_path) == [7, 7, 6]


def test_a_head_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    kept = HeadLog(tmp_path)
    with structlog.testing.capture_logs() as logs:
        kept.keep(head(1))
        kept.keep(head(2))
    assert [line["event"] for line in logs] == ["audit_head_not_kept"]
