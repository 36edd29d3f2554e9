"""The table in docs/targets.md, from the connectors: ``python -m tests.connectors.targets.targets_page`` writes it."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from connectors.targets import registry
from tests.journeys.targets.whole import Played, kept

PAGE = Path(__file__).parents[3] / "docs" / "targets.md"
BEGIN = "<!-- from the connectors: python -m tests.connectors.targets.targets_page -->\n"
END = "<!-- end -->\n"
HEADS = ("Type", "Installs", "Tries what is staged", "Checks, and takes into use", "Played with", "Not played")
_LEADS = ("Return none of either: ", "Return none: ", "Return ", "Describe ")


def table() -> str:
    """Return the table: for each type what its connector says of each verb, and what the journeys were."""
    played = kept()
    lines = [_row(HEADS), _row(["---"] * len(HEADS))]
    for name in registry.known_types():
        connector = registry.find(name)
        installs = _said(connector, "files") or _said(sys.modules[type(connector).__module__], "")
        takes = [_said(connector, verb) for verb in ("commands", "apply")]
        mine = {title: went for title, went in played.items() if title.split(", ")[0] == name}
        lines.append(
            _row(
                [
                    f"[{name}]({'target-kubernetes.md' if name == 'kubernetes' else f'target-types.md#{name}'})",
                    installs,
                    _said(connector, "staged_check"),
                    " ".join(filter(None, takes)),
                    "; ".join(sorted({went.version for went in mine.values()})),
                    "; ".join(_skipped(mine)),
                ]
            )
        )
    return "\n".join(lines) + "\n"


def _skipped(played: dict[str, Played]) -> list[str]:
    return sorted({chapter for went in played.values() for chapter in went.skipped})


def _said(owner: object, verb: str) -> str:
    """Return the first sentence of a docstring, as a cell; nothing where there is no such verb."""
    found = getattr(owner, verb, None) if verb else owner
    text = " ".join((inspect.getdoc(found) or "").split("\n\n")[0].split()) if found else ""
    for lead in _LEADS:
        text = text.removeprefix(lead)
    return (text[:1].upper() + text[1:]).replace("``", "`").replace("|", "\\|")


def page() -> str:
    """Return docs/targets.md with the table in its place."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cell or '–' for cell in cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page())
