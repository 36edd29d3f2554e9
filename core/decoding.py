"""What a decoder's error says: which field is wrong, and what to do about it.

msgspec tells both in one sentence, with a JSON path at its end. Requests, queries, targets' configurations and reports
are all decoded by it, so its words are read here once.
"""

from __future__ import annotations

import re

import msgspec

from core.errors import FieldError

_AT = re.compile(r"(?P<problem>.*) - at `(?:key` in `)?\$\.?(?P<path>[^`]*)`", re.DOTALL)
_NAMED = re.compile(r"Object (?P<how>contains unknown|missing required) field `(?P<name>[^`]*)`")
_PREFIXED = re.compile(r"(?P<name>[a-z_]+): (?P<problem>.*)", re.DOTALL)
UNKNOWN = "is not a known field; remove it or check its spelling"
MISSING = "is required; add it"


def wrong_field(error: msgspec.ValidationError, root: str = "") -> FieldError:
    """Read field and problem out of a decoding error; ``root`` stands for the decoded object itself.

    A check of a struct's own (``__post_init__``) may name its field: ``raise ValueError("field: problem")``.
    """
    problem, path = str(error), ""
    if at := _AT.fullmatch(problem):
        problem, path = at["problem"], at["path"]
    if named := _NAMED.fullmatch(problem):
        path = f"{path}.{named['name']}"
        problem = UNKNOWN if named["how"] == "contains unknown" else MISSING
    elif prefixed := _PREFIXED.fullmatch(problem):
        path, problem = f"{path}.{prefixed['name']}", prefixed["problem"]
    field = ".".join(part for part in (root, path.strip(".")) if part)
    return FieldError(field, problem[:1].lower() + problem[1:])
