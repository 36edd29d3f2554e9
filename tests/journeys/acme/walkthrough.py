"""What docs/acme-walkthroughs.md has people write, with this run's values in the places of its words for them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from benchmarks.lab.processes import REPOSITORY

_PAGE = (REPOSITORY / "docs" / "acme-walkthroughs.md").read_text(encoding="utf-8")
DIRECTORY = "https://certctl.example.com:8443/acme/directory"


def blocks(heading: str) -> list[str]:
    """Return the blocks of configuration below a heading."""
    section = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", _PAGE, flags=re.MULTILINE | re.DOTALL)
    assert section, f"the page has no heading {heading!r}"
    return re.findall(r"^```(?:yaml|caddyfile)\n(.*?)^```$", section[1], flags=re.MULTILINE | re.DOTALL)


def filled(text: str, values: Mapping[str, object]) -> str:
    """Return a block with other words in the place of some, each of which has to be there."""
    for word, value in values.items():
        assert word in text, f"the page says no {word!r} there"
        text = text.replace(word, str(value))
    return text


def limits() -> dict[str, Any]:
    """Return what the page has external account keys be made with."""
    found = re.search(r"--set 'allowed_names=(\[.*?\])'", _PAGE)
    assert found, "the page makes no external account key"
    return {"allowed_names": json.loads(found[1])}
