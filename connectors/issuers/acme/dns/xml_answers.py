"""XML that a service answers with: read without document types, so that nothing is expanded or fetched."""

from __future__ import annotations

from typing import NoReturn
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser


class _Plain(TreeBuilder):
    def doctype(self, name: str, _pubid: str | None, _system: str | None) -> NoReturn:
        message = f"has a document type {name}"
        raise ValueError(message)


def read(body: bytes) -> Element:
    """Return the root; raise ``ValueError`` for what is no XML or has a document type."""
    parser = XMLParser(target=_Plain())  # noqa: S314 - entities need a document type, which is refused
    try:
        parser.feed(body)
        root: Element = parser.close()
    except (ParseError, LookupError) as error:
        raise ValueError(str(error)) from error
    return root


def text(element: Element, *path: str) -> str:
    """Return the text at the end of a path of names, in whichever namespace; empty where there is none."""
    return (element.findtext("/".join(f"{{*}}{name}" for name in path)) or "").strip()


def all_of(element: Element, *path: str) -> list[Element]:
    """Return the elements at the end of a path of names."""
    return element.findall("/".join(f"{{*}}{name}" for name in path))
