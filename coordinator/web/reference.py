"""The OpenAPI document as a page for people: one piece of HTML, without scripts and without anything from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterator
from typing import Any

import msgspec

STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881;--link:light-dark(#0550ae,#79b8ff)}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:0 auto;padding:1rem}
a{color:var(--link)}code,pre,.method{font:.875em/1.5 ui-monospace,monospace}
pre{background:var(--soft);padding:.75rem;overflow:auto;max-height:30rem}
nav ul{columns:14rem;padding:0;list-style:none}h2{margin-top:2.5rem;border-bottom:1px solid var(--line)}
details{border:1px solid var(--line);margin:.5rem 0;border-radius:.25rem}
summary{padding:.5rem .75rem;cursor:pointer}details>div{padding:0 .75rem .75rem}
.method{display:inline-block;width:4.5rem;font-weight:700}
table{border-collapse:collapse;width:100%}td,th{border-top:1px solid var(--line);padding:.25rem .5rem .25rem 0;
text-align:left;vertical-align:top}td:first-child{white-space:nowrap}
"""
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The page's Content-Security-Policy: its own style and nothing else."""
_WORDS = re.compile(r"`([^`]+)`")


def page(document: dict[str, Any]) -> str:
    """Return the page of an OpenAPI document that ``coordinator.web.openapi`` made."""
    return "".join(_page(document))


def _page(document: dict[str, Any]) -> Iterator[str]:
    info, url = document["info"], document["servers"][0]["url"]
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_text(info["title"])} API</title>'
    yield f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
    yield f"<h1>{_text(info['title'])} API <small>{_text(info['version'])}</small></h1>"
    yield f'<p>At <code>{_text(url)}</code>. For programs: <a href="/api/v1/openapi.json">OpenAPI 3.1</a>.</p>'
    yield _paragraphs(info["description"])
    yield "<h2>Who calls</h2><table>"
    for name, scheme in document["components"]["securitySchemes"].items():
        yield f"<tr><td><code>{_text(name)}</code></td><td>{_said(scheme['description'])}</td></tr>"
    yield "</table><nav><h2>Rooms</h2><ul>"
    for tag in document["tags"]:
        yield f'<li><a href="#{_text(tag["name"])}">{_text(tag["name"].replace("_", " "))}</a></li>'
    yield "</ul></nav>"
    for tag in document["tags"]:
        yield f'<h2 id="{_text(tag["name"])}">{_text(tag["name"].replace("_", " "))}</h2>'
        yield f"<p>{_said(tag['description'])}</p>"
        for path, method, operation in _operations(document, tag["name"]):
            yield from _operation(document, path, method, operation)
    yield '<h2 id="schemas">Bodies</h2>'
    for name, schema in document["components"]["schemas"].items():
        yield from _schema(name, schema)
    yield "</body></html>"


def _operations(document: dict[str, Any], tag: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if tag in operation["tags"]:
                yield path, method, operation


def _operation(document: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f'<details id="{_text(operation["operationId"])}"><summary><span class="method">{method.upper()}</span>'
    yield f" <code>{_text(path)}</code> {_text(operation['summary'])}</summary><div>"
    yield _paragraphs(operation["description"])
    parameters = [_resolved(document, each) for each in operation["parameters"]]
    if parameters:
        yield "<h4>Parameters</h4><table>"
        for each in parameters:
            about = _said(each["description"]) + (" <b>Needed.</b>" if each["required"] else "")
            yield f"<tr><td><code>{_text(each['name'])}</code></td><td>{each['in']}</td>"
            yield f"<td>{_kind(each['schema'])}</td><td>{about}</td></tr>"
        yield "</table>"
    if "requestBody" in operation:
        yield "<h4>Body</h4>"
        yield from _content(document, operation["requestBody"]["content"])
    yield "<h4>Answers</h4><table>"
    for status, answer in operation["responses"].items():
        yield from _answer(document, status, _resolved(document, answer))
    yield "</table></div></details>"


def _answer(document: dict[str, Any], status: str, answer: dict[str, Any]) -> Iterator[str]:
    names = [
        name for name in answer.get("headers", {}) if name not in {"X-Request-ID", "RateLimit", "RateLimit-Policy"}
    ]
    yield f"<tr><td>{status}</td><td>{_said(answer['description'])}"
    if names:
        yield f"<br>Headers: {', '.join(f'<code>{_text(name)}</code>' for name in names)}"
    yield "".join(f"<br><code>{_text(kind)}</code>" for kind in _problem_types(answer))
    content = {kind: media for kind, media in answer.get("content", {}).items() if "problem" not in kind}
    yield from _content(document, content)
    yield "</td></tr>"


def _problem_types(answer: dict[str, Any]) -> list[str]:
    schema = answer.get("content", {}).get("application/problem+json", {}).get("schema", {})
    return [
        kind for part in schema.get("allOf", []) for kind in part.get("properties", {}).get("type", {}).get("enum", ())
    ]


def _content(document: dict[str, Any], content: dict[str, Any]) -> Iterator[str]:
    for kind, media in content.items():
        yield f"<p><code>{_text(kind)}</code> {_kind(media['schema'])}</p>"
        for shown in media.get("examples", {}).values():
            text = msgspec.json.format(msgspec.json.encode(_resolved(document, shown)["value"]), indent=2).decode()
            yield f"<pre>{_text(text)}</pre>"


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f'<details id="schema-{_text(name)}"><summary><code>{_text(name)}</code></summary><div>'
    yield _paragraphs(schema.get("description", ""))
    if "properties" in schema:
        needed = set(schema.get("required", ()))
        yield "<table>"
        for field, kind in schema["properties"].items():
            default = f" default <code>{_json(kind['default'])}</code>" if "default" in kind else ""
            about = _said(kind.get("description", "")) + (" <b>Needed.</b>" if field in needed else default)
            yield f"<tr><td><code>{_text(field)}</code></td><td>{_kind(kind)}</td><td>{about}</td></tr>"
        yield "</table>"
    else:
        yield f"<p>{_kind(schema)}</p>"
    yield "</div></details>"


def _kind(schema: dict[str, Any]) -> str:
    """Return a schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#schema-{_text(name)}">{_text(name)}</a>'
    for joint in ("anyOf", "allOf"):
        if joint in schema:
            return (" or " if joint == "anyOf" else " and ").join(_kind(each) for each in schema[joint])
    if "enum" in schema:
        return "one of " + ", ".join(f"<code>{_json(value)}</code>" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items') or {})}"
    bounds = [f"{words} {_json(schema[key])}" for key, words in _BOUNDS.items() if key in schema]
    return " ".join([_text(str(schema.get("format") or schema.get("type", "anything"))), *bounds])


_BOUNDS = {"minimum": "≥", "maximum": "≤", "minLength": "length ≥", "maxLength": "length ≤", "pattern": "like"}


def _resolved(document: dict[str, Any], thing: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in thing:
        return thing
    _, _, kind, name = thing["$ref"].split("/")
    found: dict[str, Any] = document["components"][kind][name]
    return found


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_said(part)}</p>" for part in text.split("\n\n") if part.strip())


def _said(text: str) -> str:
    """Return prose as HTML, with what stands between back-quotes as code."""
    return _WORDS.sub(r"<code>\1</code>", _text(text.replace("``", "`")))


def _json(value: Any) -> str:
    return _text(msgspec.json.encode(value).decode())


def _text(text: str) -> str:
    return html.escape(text)
