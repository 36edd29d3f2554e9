"""An example of every body, made of its schema: fields that have a usual value show that, others the least that fits.

What a schema cannot tell (a configuration that another field decides about) is written here by hand.
"""

from __future__ import annotations

import base64
import copy
from typing import Any

import msgspec

from coordinator.web.schemas import components_of

_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_MOMENT = "2026-01-31T12:00:00Z"
_PEM = "-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----\n"

FIELDS: dict[str, Any] = {
    "actor": "key:key-ci",
    "address": "192.0.2.7",
    "agent_group_id": "grp-edge",
    "agent_id": "ag-web-1",
    "allowed_names": ["*.example.com"],
    "architecture": "x86_64",
    "auth_type": "api-key",
    "certificate_id": "mc-www",
    "common_name": "www.example.com",
    "created_by": "key:key-ci",
    "default_lifetime_s": 4060800,
    "detail": "",
    "email": "ada@example.com",
    "environment": "production",
    "environments": ["production"],
    "event_id": "1042",
    "extended_key_usages": ["serverAuth"],
    "fingerprint": _SHA256,
    "generation": 3,
    "holder": "ag-web-1",
    "hostname": "web-1.example.com",
    "issuer_id": "iss-local",
    "job_id": "job-01k9f0c2m4v7",
    "job_ids": ["job-01k9f0c2m4v7"],
    "key_algorithm": "ecdsa-p256",
    "key_algorithms": ["ecdsa-p256"],
    "key_id": "key-ci",
    "lifetime_s": 4060800,
    "match_ip_cidr": "10.0.0.0/8",
    "match_version": ">=0.1,<2",
    "max_lifetime_s": 34387200,
    "methods": ["api-key"],
    "name": "www",
    "os": "Debian 12",
    "owner_id": "o-ada",
    "pem": _PEM,
    "policy_id": "pol-owner",
    "profile_id": "prof-default",
    "renewal_policy_id": "rp-default",
    "role": "operator",
    "rule_id": "pol-owner",
    "run_id": "job-01k9f0c2m4v7",
    "sans": ["www.example.com", "example.com"],
    "serial": "5e71a1c0ffee",
    "served_fingerprint": _SHA256,
    "session_id": "ses-01k9f0c2m4v7",
    "ski": "4f2a9c1b7d3e5f60718293a4b5c6d7e8f9012345",
    "spki_sha256": _SHA256,
    "subject": "CN=certctl local CA",
    "tags": {"service": "shop"},
    "target_id": "tgt-web",
    "target_ids": ["tgt-web"],
    "target_type": "nginx",
    "team_id": "team-web",
    "teams": ["team-web"],
    "token_id": "tok-01k9f0c2m4v7",
    "version": "0.1.0",
    "version_id": "cv-01k9f0c2m4v7",
    "view_id": "sv-due",
    "violation_id": "vio-01k9f0c2m4v7",
}
"""Usual values by a field's name, taken where the field's schema allows them."""

_IDS = {
    "APIKey": "key-ci",
    "Agent": "ag-web-1",
    "AgentGroup": "grp-edge",
    "Certificate": "mc-www",
    "CreatedAPIKey": "key-ci",
    "GroupMember": "ag-web-1",
    "Issuer": "iss-local",
    "Job": "job-01k9f0c2m4v7",
    "Owner": "o-ada",
    "Policy": "pol-owner",
    "Profile": "prof-default",
    "RenewalPolicy": "rp-default",
    "SavedView": "sv-due",
    "Target": "tgt-web",
    "Team": "team-web",
    "Version": "cv-01k9f0c2m4v7",
}
_CONFIG = {"cert_path": "/etc/nginx/tls/www.pem", "key_path": "/etc/nginx/tls/www.key", "probe": {"port": 443}}
_TARGET = {"name": "shop", "type": "nginx", "agent_id": "ag-web-1", "config": _CONFIG}
_ISSUER = {"name": "Internal CA", "type": "local", "config": {"common_name": "Internal CA"}}
_POLICY = {
    "name": "Shops only",
    "type": "allowed_domains",
    "config": {"patterns": ["*.example.com"]},
    "enforce": "block",
}
_VIEW = {"name": "due soon", "page": "certificates", "filters": {"life": "due", "environment": "production"}}
_CERTIFICATE = {"common_name": "www.example.com", "sans": ["example.com"], "target_ids": ["tgt-web"]}
BODIES: dict[str, Any] = {
    "AgentPatch": {"name": "web-1"},
    "CertificateBody": _CERTIFICATE,
    "CreateCertificate": {"id": "mc-www", **_CERTIFICATE},
    "PatchCertificate": {"environment": "production", "tags": {"service": None}},
    "CreateIssuer": {"id": "iss-internal", **_ISSUER},
    "IssuerBody": _ISSUER,
    "IssuerBodyPatch": {"enabled": False},
    "CreatePolicy": {"id": "pol-shops", **_POLICY},
    "PolicyBody": _POLICY,
    "PolicyBodyPatch": {"enforce": "warn"},
    "CreateSavedView": {"id": "sv-due", **_VIEW},
    "SavedViewBody": _VIEW,
    "SavedViewBodyPatch": {"filters": {"environment": None}, "shared": True},
    "CreateTarget": {"id": "tgt-web", **_TARGET},
    "TargetBody": _TARGET,
    "TargetBodyPatch": {"config": {"probe": {"port": 8443}}},
    "Target": {**_TARGET, "id": "tgt-web", "certificate_id": "mc-www"},
    "Issuer": {**_ISSUER, "id": "iss-internal"},
    "Policy": {**_POLICY, "id": "pol-shops"},
    "CreateAPIKey": {"name": "ci", "role": "operator", "teams": ["team-web"], "ttl_s": 7776000},
    "CreateToken": {"note": "rack 4", "ttl_s": 3600},
    "NewKey": {},
}
"""What is written by hand, by the schema's name; fields of an answer that are not here are made of the schema."""
_DEPTH = 8


def reference(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the ``examples`` of a body whose schema is a reference; nothing for one that is not."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return {"examples": {name: {"$ref": f"#/components/examples/{name}"}}} if name else {}


def of_field(name: str) -> Any:
    """Return the usual value of a field or parameter."""
    return FIELDS.get(name, "example")


def example(components: dict[str, Any], name: str) -> Any:
    """Return an example of the schema with this name."""
    return _of(components, {"$ref": f"#/components/schemas/{name}"}, "", _DEPTH)


def of_struct(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return an example of a struct."""
    _, components = components_of([kind])
    shown: dict[str, Any] = example(components, kind.__name__)
    return shown


def _of(components: dict[str, Any], schema: dict[str, Any], field: str, depth: int) -> Any:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _of_component(components, name, field, depth)
    if "anyOf" in schema:
        return _of(components, schema["anyOf"][0], field, depth)
    for key in ("const", "default"):
        if schema.get(key) not in (None, "", [], {}):
            return schema[key]
    if "enum" in schema:
        return FIELDS[field] if FIELDS.get(field) in schema["enum"] else schema["enum"][0]
    return _of_type(components, schema, field, depth)


def _of_component(components: dict[str, Any], name: str, field: str, depth: int) -> Any:
    schema = components[name]
    if schema.get("type") != "object" or "properties" not in schema:
        return _of(components, schema, field, depth)
    by_hand, asked = BODIES.get(name), _is_asked(name)
    if by_hand is not None and asked:
        return copy.deepcopy(by_hand)  # the caller's to change
    names = schema.get("required") or list(schema["properties"])[:1] if asked else schema["properties"]
    made = {each: _of(components, schema["properties"][each], each, depth - 1) for each in names} if depth else {}
    if "id" in made and name in _IDS:
        made["id"] = _IDS[name]
    return {**made, **(by_hand or {})}


def _is_asked(name: str) -> bool:
    """Say whether a schema is one that callers send: such an example shows what is needed, not all there is."""
    return name.startswith(("Create", "Set", "New", "Patch", "Rotate")) or name.endswith(("Body", "Patch"))


def _of_type(components: dict[str, Any], schema: dict[str, Any], field: str, depth: int) -> Any:
    usual = FIELDS.get(field)
    made: dict[str, Any] = {
        "string": _text(schema, usual),
        "integer": usual if isinstance(usual, int) else schema.get("minimum", 1),
        "number": schema.get("minimum", 1),
        "boolean": schema.get("default", True),
        "object": usual if isinstance(usual, dict) else {},
        "null": None,
    }
    if schema.get("type") != "array":
        return made.get(schema.get("type", ""), usual)
    if isinstance(usual, list):
        return usual
    items = schema.get("items") or {}
    return [_of(components, items, "", depth - 1)] if items and depth else []


def _text(schema: dict[str, Any], usual: Any) -> str:
    if schema.get("format") in {"date-time", "date"}:
        return _MOMENT if schema["format"] == "date-time" else _MOMENT[:10]
    if schema.get("contentEncoding") == "base64":
        return base64.b64encode(bytes(range(32))).decode()
    if isinstance(usual, str):
        return usual
    return "example" if "pattern" not in schema else ""
