"""What a defect is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Defect:
    """``tests`` are ids as pytest takes them. ``core`` ones are tried in the ordinary run too."""

    name: str
    means: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    core: bool = False
