"""A quick cut of every chapter of every target; ``make journeys`` plays the whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.journeys.stage import Stage, playing
from tests.journeys.targets.chapters import CHAPTERS, QUICK, Road
from tests.journeys.targets.subject import Chapter, Subject, every_subject, title

pytestmark = pytest.mark.timeout(120)

PLAYED = [
    pytest.param(subject, chapter, id=f"{title(subject)}-{chapter}".replace(" ", "_"))
    for subject in every_subject()
    for chapter in CHAPTERS
    if subject.quick and chapter not in subject.skips
]


class Theatre:
    """One coordinator for all, and the road of the subject that is played now."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.coordinator = stage.coordinator()
        self.subject: type[Subject] | None = None
        self.road: Road | None = None

    def play(self, subject: type[Subject]) -> Road:
        """Return the subject's road, begun when it is first asked for."""
        if self.subject is not subject:
            self.subject, self.road = subject, None
            folder = self.stage.folder / title(subject).replace(", ", "-").replace("_", "-")
            folder.mkdir()
            self.road = Road(self.stage, self.coordinator, subject(folder), QUICK)
        assert self.road is not None, "an earlier chapter ended before the road began"
        return self.road


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    """A stage that all chapters share."""
    with ExitStack() as stack:
        yield Theatre(stack.enter_context(playing(tmp_path_factory.mktemp("targets"))))


@pytest.mark.parametrize("subject, chapter", PLAYED)
def test_chapter(theatre: Theatre, subject: type[Subject], chapter: Chapter) -> None:
    """What must be so at a chapter's end is so."""
    CHAPTERS[chapter](theatre.play(subject))


@pytest.mark.parametrize("subject", every_subject(), ids=title)
def test_a_skipped_chapter_has_its_reason(subject: type[Subject]) -> None:
    """In words for people who ask what was not tried."""
    assert all(len(reason.split()) > 3 for reason in subject.skips.values())
