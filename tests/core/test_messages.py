"""Messages between agent and coordinator, the signatures on them, decoding errors, and the crash points."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core import errors, wire
from core.decoding import MISSING, UNKNOWN, wrong_field
from core.errors import CertctlError, InvalidInput, Unauthenticated
from core.identity import check_public_key, nonce_message, sign_report, verify
from core.names import parse_name

KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
NAMES = (parse_name("www.example.com"), parse_name("192.0.2.1"))
REPORT = wire.JobReport(
    "ag-1",
    "job-1",
    3,
    "failed",
    (wire.Step("stage", 1.5), wire.Step("validate", 2.0, "exit 1")),
    wire.Failure("validate", "nginx -t: no", transient=False),
    undo="done",
)
MESSAGES: list[msgspec.Struct] = [
    wire.Enrollment("cte_x", "web-1", PUBLIC, PUBLIC, 1_700_000_000_000, wire.Metadata("web-1", os="linux")),
    wire.Enrolled("ag-1", "web-1"),
    wire.Nonce(bytes(32)),
    wire.TokenRequest(bytes(32), bytes(64)),
    wire.Token("cta_x", 3600),
    wire.Work(
        (
            wire.IssuanceItem("job-1", 1, "mc-1", "www.example.com", NAMES, "ecdsa-p256"),
            wire.DeploymentItem(
                "job-2", 1, "mc-1", "cv-1", "tgt-1", "nginx", {"a": [1, None]}, (b"\0\xff", b""), "ab", "cd", NAMES
            ),
        )
    ),
    wire.CSRSubmission(1, b"\x30\x00", 1.5),
    wire.CSRAnswer("issued", "cv-1", (b"\x30\x00",)),
    REPORT,
    wire.SignedReport(b"{}", bytes(64)),
    wire.Receipt("Completed"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was_sent_also_with_fields_of_a_newer_version(message: msgspec.Struct) -> None:
    sent = msgspec.json.encode(message)
    assert msgspec.json.decode(sent, type=type(message)) == message
    newer = msgspec.json.encode({**msgspec.json.decode(sent), "a_field_of_tomorrow": [1]})
    assert msgspec.json.decode(newer, type=type(message)) == message


def test_a_signature_of_one_kind_serves_as_no_other() -> None:
    nonce = bytes(32)
    payload = msgspec.json.encode(REPORT)
    signature = sign_report(KEY, payload)
    verify(PUBLIC, signature, wire.REPORT_CONTEXT + payload)
    verify(PUBLIC, KEY.sign(nonce_message("ag-1", nonce)), nonce_message("ag-1", nonce))
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    wrong: list[tuple[bytes, bytes, bytes]] = [
        (PUBLIC, signature, wire.REPORT_CONTEXT + payload + b" "),
        (PUBLIC, signature, wire.NONCE_CONTEXT + payload),
        (PUBLIC, signature, nonce_message("ag-1", nonce)),
        (PUBLIC, KEY.sign(nonce_message("ag-2", nonce)), nonce_message("ag-1", nonce)),
        (other, signature, wire.REPORT_CONTEXT + payload),
        (PUBLIC, b"", wire.REPORT_CONTEXT + payload),
        (b"short", signature, wire.REPORT_CONTEXT + payload),
    ]
    for key, bad, message in wrong:
        with pytest.raises(Unauthenticated):
            verify(key, bad, message)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_public_key_has_its_length(length: int) -> None:
    assert check_public_key(PUBLIC, field="identity_key") == PUBLIC
    with pytest.raises(InvalidInput, match=f"identity_key: is {length} bytes long"):
        check_public_key(bytes(length), field="identity_key")


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    """A struct with a check of its own."""

    port: int = 443

    def __post_init__(self) -> None:
        if self.port == 7:
            raise ValueError("port: is taken")


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    """A struct with others in it."""

    name: str
    inner: Inner = msgspec.field(default_factory=Inner)
    list: tuple[Inner, ...] = ()


@pytest.mark.parametrize(
    "value,field,problem",
    [
        ({}, "name", MISSING),
        ({"name": 1}, "name", "expected `str`, got `int`"),
        ({"name": "a", "nmae": 1}, "nmae", UNKNOWN),
        ({"name": "a", "inner": {"prot": 1}}, "inner.prot", UNKNOWN),
        ({"name": "a", "inner": {"port": 7}}, "inner.port", "is taken"),
        ({"name": "a", "list": [{}, {"port": "x"}]}, "list[1].port", "expected `int`, got `str`"),
        ({"name": "a", "list": [{}, {"prot": 1}]}, "list[1].prot", UNKNOWN),
        ([], "", "expected `object`, got `array`"),
    ],
)
def test_a_decoding_error_says_which_field_and_what_to_do(value: object, field: str, problem: str) -> None:
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.convert(value, Outer)
    assert (wrong_field(error.value).field, wrong_field(error.value).problem) == (field, problem)
    assert wrong_field(error.value, "config").field == f"config.{field}".rstrip(".")


def test_the_tree_of_errors_is_as_its_docstring_draws_it() -> None:
    drawn = errors.__doc__ or ""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CertctlError)]
    assert len(kinds) > 12
    for kind in kinds:
        assert kind.__name__ in drawn
        assert kind in {CertctlError, errors.Permanent, errors.Transient} or kind.title != CertctlError.title


@pytest.mark.parametrize(
    "value,passed,status",
    [
        ("", 4, 0),
        ("other", 4, 0),
        ("here", 0, -signal.SIGKILL),
        ("here:3", 2, -signal.SIGKILL),
        ("here:9", 4, 0),
    ],
)
def test_a_crash_point_ends_the_process_at_the_passing_that_was_named(value: str, passed: int, status: int) -> None:
    script = "from core.crash import crash_point\nfor n in range(4):\n crash_point('here')\n print(n, flush=True)"
    environment = {**os.environ, "CERTCTL_CRASH_POINT": value}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=False)
    assert (len(ended.stdout.splitlines()), ended.returncode) == (passed, status)
