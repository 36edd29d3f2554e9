"""docs/reliability.md counts points and cells as they are, and every point can be found in the source."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.journeys.crash.points import ROADS, ROOT, cells, named, points
from tests.journeys.crash.reach import why_unreached


def section() -> str:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    return page.partition("## Crash points\n")[2].partition("\n## ")[0]


def test_the_page_counts_points_and_cells() -> None:
    programs = Counter(points().values())
    told = re.search(r"\*\*(\d+) points\*\*: (\d+) of the agent, (\d+) of the coordinator", section())
    assert told, "the section does not say how many points there are"
    assert [int(number) for number in told.groups()] == [len(points()), programs["agent"], programs["coordinator"]]


@pytest.mark.parametrize("road", ROADS)
def test_the_page_counts_the_cells_of_a_road(road: str) -> None:
    played = [cell for cell in cells() if cell.road == road]
    reached = sum(not why_unreached(cell) for cell in played)
    assert re.search(rf"^\| `{road}` \|[^|]*\| {len(played)} \| {reached} \|$", section(), flags=re.MULTILINE)


def test_every_point_has_a_cell_that_reaches_it() -> None:
    reached = {cell.point for cell in cells() if not why_unreached(cell)}
    assert reached == set(points())


def test_a_name_that_no_reader_can_find_is_refused() -> None:
    assert named('crash_point("a.b")\nif x:\n  crash_point("c.d")') == ["a.b", "c.d"]
    with pytest.raises(ValueError, match="line 1"):
        named("crash_point(name)")
