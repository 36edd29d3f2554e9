"""Defects of both ends of ACME: the server for clients, the client at authorities elsewhere."""

from __future__ import annotations

from tests.mutants.defect import Defect

_ACCOUNTS = "tests/coordinator/acme/test_accounts.py::test_"
_REQUESTS = "tests/coordinator/acme/test_requests.py::test_"
_PERSPECTIVES = "tests/coordinator/acme/test_perspectives.py::test_"
_LOOKS = "tests/agent/test_perspective.py::test_"
_CLIENT = "tests/connectors/issuers/acme"

ACME = (
    Defect(
        "nonce-for-ever",
        "a nonce never runs out, so that it may be used again once it is forgotten",
        "coordinator/enrollment/acme/nonces.py",
        "nonce if -ttl.total_seconds() < age_s < ttl.total_seconds() else None",
        "nonce if -ttl.total_seconds() < age_s else None",
        (f"{_REQUESTS}nonces_run_out",),
    ),
    Defect(
        "nonce-of-anybody",
        "a nonce that nobody gave out is taken",
        "coordinator/enrollment/acme/nonces.py",
        "if len(nonce) != _LENGTH or not any(",
        "if len(nonce) != _LENGTH and not any(",
        (f"{_REQUESTS}a_nonce_of_this_second_that_nobody_gave_out_is_bad",),
    ),
    Defect(
        "signed-for-elsewhere",
        "a request that was signed for another resource is answered",
        "coordinator/enrollment/acme/jws.py",
        "    if header.url != url:\n",
        "    if not header.url:\n",
        (f"{_REQUESTS}a_bent_header_is_refused",),
    ),
    Defect(
        "binding-used-twice",
        "a key of an external account binds any number of accounts",
        "coordinator/enrollment/acme/accounts.py",
        'if row["bound"] and not row["reusable"]:',
        'if row["bound"] and row["reusable"]:',
        (f"{_ACCOUNTS}trust_needs_an_external_account",),
    ),
    Defect(
        "key-change-of-anothers",
        "what was signed to change the key of one account changes that of another",
        "coordinator/enrollment/acme/accounts.py",
        "if body.account != call.request.header.kid:",
        "if not body.account:",
        (f"{_ACCOUNTS}a_bent_key_change_is_refused",),
    ),
    Defect(
        "anothers-account-open",
        "an account is read and closed by another one",
        "coordinator/enrollment/acme/accounts.py",
        'if call.account is None or call.path["account_id"] != call.account["id"]:',
        "if call.account is None:",
        (f"{_ACCOUNTS}nobody_reads_or_changes_anothers",),
    ),
    Defect(
        "roll-over-not-told",
        "an account has a new key here that its authority was never told of",
        "coordinator/ordering/accounts.py",
        "await found.account.roll_over(_opened(ctx, row))",
        "await found.account.roll_over(_opened(ctx, former))",
        ("tests/coordinator/test_weaknesses_acme.py::test_a20_an_account_at_an_authority_outlives_its_coordinator",),
    ),
    Defect(
        "names-beyond-the-order",
        "a certificate with more names than were ordered is taken from an authority",
        "connectors/issuers/acme/certificates.py",
        "if set(leaf.names) != wanted:",
        "if not set(leaf.names) >= wanted:",
        (f"{_CLIENT}/test_certificates.py::test_a_certificate_has_the_ordered_key_and_the_ordered_names",),
    ),
    Defect(
        "token-into-a-path",
        "an authority's token becomes a path, whatever is in it",
        "connectors/issuers/acme/challenges.py",
        "return bool(_TOKEN.fullmatch(challenge.token))",
        "return bool(challenge.token)",
        (f"{_CLIENT}/test_order_answers.py::test_a_token_that_would_be_a_path_is_not_answered",),
    ),
    Defect(
        "old-nonces-kept",
        "one nonce that was not taken is followed by others as old",
        "connectors/issuers/acme/client.py",
        "            self._nonces.clear()  # they are",
        "            self._nonces.copy()  # they are",
        (f"{_CLIENT}/test_order_answers.py::test_a_nonce_is_used_once_and_old_ones_go_with_one_that_was_not_taken",),
    ),
    Defect(
        "silence-corroborates",
        "perspectives that say nothing count as ones that see what the coordinator sees",
        "coordinator/enrollment/acme/quorum.py",
        "and len(told) - seen <= allowed:",
        "and failed <= allowed:",
        ("tests/coordinator/acme/test_quorum.py",),
    ),
    Defect(
        "perspective-of-anothers",
        "an agent tells what another one saw",
        "coordinator/enrollment/acme/perspectives_store.py",
        "WHERE id = $1 AND agent_id = $2 FOR UPDATE",
        "WHERE id = $1 AND agent_id <> $2 || '-' FOR UPDATE",
        (f"{_PERSPECTIVES}a_liar_has_its_own_word_only",),
    ),
    Defect(
        "perspective-not-asked-for",
        "an agent looks at challenges for its coordinator although its host has not said so",
        "agent/perspective.py",
        "if not policy.perspective.enabled:",
        "if not policy.source:",
        (f"{_LOOKS}a_host_that_says_nothing_is_no_perspective",),
    ),
    Defect(
        "perspective-looks-around",
        "a coordinator can have an agent look at hosts of its private network",
        "agent/perspective.py",
        "private_networks=False,",
        "private_networks=True,",
        (f"{_LOOKS}addresses_that_a_host_has_to_name",),
    ),
)
