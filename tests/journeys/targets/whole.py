"""Plays every chapter of every target to the full, and writes what came of it into docs/journeys.json and .md.

``make journeys`` does, with the ACME clients after it; types that are not named keep what they had.
"""

from __future__ import annotations

import datetime as dt
import sys
import tempfile
import time
import traceback
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from benchmarks.lab.processes import REPOSITORY
from tests.journeys.stage import Stage, playing
from tests.journeys.targets.chapters import CHAPTERS, WHOLE, Road
from tests.journeys.targets.subject import Subject, every_subject, title

PAGE = REPOSITORY / "docs" / "journeys.md"
KEPT = PAGE.with_suffix(".json")


class Played(msgspec.Struct, frozen=True):
    """How a subject went: seconds of each chapter, or what came of it in words, and why some were not played."""

    date: str
    version: str
    chapters: dict[str, float | str]
    skipped: dict[str, str]


def main(types: Collection[str]) -> int:
    """Play these types of targets, or all; exit code 1 when a chapter failed."""
    results = kept()
    with tempfile.TemporaryDirectory(prefix="certctl-journeys-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        for subject in every_subject():
            if not types or subject.target_type in types:
                results[title(subject)] = _play(subject, Path(folder))
    KEPT.write_bytes(msgspec.json.format(msgspec.json.encode(dict(sorted(results.items())))) + b"\n")
    PAGE.write_text(page(kept()))
    return 1 if any("FAILED" in played.chapters.values() for played in results.values()) else 0


def kept() -> dict[str, Played]:
    """Return the results that are kept, by the title of the subject."""
    return msgspec.json.decode(KEPT.read_bytes(), type=dict[str, Played]) if KEPT.exists() else {}


def _play(subject: type[Subject], folder: Path) -> Played:
    """Play all chapters of a subject on a platform of its own; what comes after a failure is not reached."""
    sys.stdout.write(f"{title(subject)} ({subject.version()})\n")
    chapters: dict[str, float | str] = {}
    place = folder / title(subject).replace(", ", "-").replace("_", "-")
    with playing(place) as stage:
        road: Road | None = None
        for chapter, play in CHAPTERS.items():
            if chapter in subject.skips:
                continue
            started = time.monotonic()
            try:
                road = road or _road(stage, place, subject)
                play(road)
                chapters[chapter] = round(time.monotonic() - started, 1)
            except Exception:  # noqa: BLE001 - a failure of any kind is a result, and is shown
                traceback.print_exc()
                chapters[chapter] = "FAILED"
            sys.stdout.write(f"  {chapter:<26}{chapters[chapter]}\n")
            sys.stdout.flush()
            if chapters[chapter] == "FAILED":
                break
    today = dt.datetime.now(dt.UTC).date().isoformat()
    return Played(today, subject.version(), chapters, {str(chapter): why for chapter, why in subject.skips.items()})


def _road(stage: Stage, folder: Path, subject: type[Subject]) -> Road:
    program = folder / "program"
    program.mkdir(parents=True)
    return Road(stage, stage.coordinator(), subject(program), WHOLE)


def page(results: Mapping[str, Played]) -> str:
    """Return the page for these results."""
    heads = ["target", *CHAPTERS]
    table = [_row(heads), _row("---" for _ in heads)]
    for name, played in results.items():
        table.append(_row([name, *(_cell(played, chapter) for chapter in CHAPTERS)]))
    versions = [_row([name, f"`{played.version}`", played.date]) for name, played in results.items()]
    reasons = [
        f"- {name}, {chapter}: {why}." for name, played in results.items() for chapter, why in played.skipped.items()
    ]
    lines, why_not = "\n".join(table), "\n".join(reasons) or "None."
    programs = "\n".join([_row(["target", "version", "played on"]), _row(["---"] * 3), *versions])
    return f"""# Journeys

Every type of target is played through the same chapters on its real program, by a real coordinator and a real agent.
`make journeys` plays them and writes this page; `make test` plays a quick cut. What each asks is in
[chapters.py](../tests/journeys/targets/chapters.py).

Seconds of each chapter:

{lines}

Renewal under load: {WHOLE.renewals} renewals while a visitor comes on new connections, none of whom may fail; then as
many with kept connections, of which no more may break than when the program is only reloaded as often. kill -9: the
agent dies at {", ".join(f"`{point}`" for point in WHOLE.points)}.

## Programs

{programs}

## Chapters that were not played

{why_not}
"""


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(played: Played, chapter: str) -> str:
    if chapter in played.skipped:
        return "–"
    return str(played.chapters.get(chapter, "not reached"))
