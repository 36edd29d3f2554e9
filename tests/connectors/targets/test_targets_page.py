"""docs/targets.md and docs/journeys.md say what connectors and journeys are."""

from __future__ import annotations

from connectors.targets import registry
from tests.connectors.targets import targets_page
from tests.journeys.targets.subject import every_subject
from tests.journeys.targets.whole import PAGE, kept, page


def test_the_table_is_what_the_connectors_say() -> None:
    assert targets_page.page() == targets_page.PAGE.read_text(), "run: python -m tests.connectors.targets.targets_page"


def test_the_page_of_journeys_is_what_was_played() -> None:
    assert page(kept()) == PAGE.read_text(), "run: make journeys"


def test_every_type_has_a_subject_and_none_failed() -> None:
    assert {subject.target_type for subject in every_subject()} == set(registry.known_types())
    assert not [title for title, played in kept().items() if "FAILED" in played.chapters.values()]
