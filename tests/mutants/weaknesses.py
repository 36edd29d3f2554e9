"""What a reference product does wrong on its core path, as defects of this one; the numbers are those of the tests."""

from __future__ import annotations

from tests.mutants.defect import Defect

_WEAK = "tests/coordinator/test_weaknesses.py::test_"
_WEAK_ACME = "tests/coordinator/test_weaknesses_acme.py::test_"

WEAKNESSES = (
    Defect(
        "coordinator-takes-jobs",
        "the coordinator claims what only an agent can do (A 1)",
        "coordinator/bindings/service.py",
        "        silent = await _end_silent(conn)\n        orphans",
        "        silent = await _end_silent(conn)\n"
        "        await conn.execute(\"UPDATE jobs SET state = 'Running' WHERE state = 'Pending'\")\n        orphans",
        (f"{_WEAK}a1_no_coordinator_takes_the_jobs_of_agents",),
    ),
    Defect(
        "targets-ignored",
        "a certificate never reaches the targets that it is made with (A 2)",
        "coordinator/certificates/service.py",
        "await bindings.bind(tx, certificate_id, body.target_ids, holders)",
        "await bindings.bind(tx, certificate_id, [], holders)",
        (f"{_WEAK}a2_a_certificate_reaches_the_targets_it_is_made_or_changed_with",),
    ),
    Defect(
        "config-redacted",
        "an agent gets stars for each field with key in its name (A 3)",
        "coordinator/jobs/service.py",
        'config=row["config"],',
        'config={name: "********" if "key" in name else value for name, value in row["config"].items()},',
        (f"{_WEAK}a3_an_agent_gets_its_configuration_as_it_was_entered",),
    ),
    Defect(
        "acme-answered-by-others",
        "what is below /acme/ is left to what answers the rest (A 4)",
        "coordinator/enrollment/acme/server.py",
        'scope["path"].startswith(PREFIX):',
        'scope["path"] == PREFIX:',
        (f"{_WEAK_ACME}a4_what_is_below_acme_is_answered_by_the_acme_server",),
    ),
    Defect(
        "acme-owner-forgotten",
        "what an ACME client orders has no owner and no team (A 5)",
        "coordinator/enrollment/acme/accounts.py",
        '"eab_key_id": eab,\n        "agreed"',
        '"eab_key_id": None,\n        "agreed"',
        (f"{_WEAK_ACME}a5_what_is_finalized_has_its_owner_and_is_signed_by_its_profiles_issuer",),
    ),
    Defect(
        "acme-by-http-alone",
        "names are proved by http-01 alone (A 5)",
        "coordinator/enrollment/acme/authorizations.py",
        "    return acme.HTTP_01, acme.DNS_01, acme.TLS_ALPN_01, acme.DNS_ACCOUNT_01, *last\n",
        "    return (acme.HTTP_01,)\n",
        (f"{_WEAK_ACME}a5_names_are_proved_in_every_way_and_wildcards_by_dns",),
    ),
    Defect(
        "answers-not-asked-for",
        "nobody asks an authority for the answer that it still owes (A 7)",
        "coordinator/issuance/service.py",
        "job_ids = await store.interrupted(conn, _BATCH)",
        "job_ids = (await store.interrupted(conn, _BATCH))[:0]",
        (f"{_WEAK}a7_what_an_authority_has_not_answered_is_pending_and_two_of_them_do_not_meet",),
    ),
    Defect(
        "window-of-31-days",
        "whatever the policy says and however long it lives, a certificate is renewed 31 days before its end (A 8)",
        "core/renewal.py",
        "    return not_after - lifetime / _REMAINING_SHARE\n",
        "    return not_after - timedelta(days=31)\n",
        (f"{_WEAK}a8_the_renewal_window_is_the_policys_and_fits_the_lifetime",),
    ),
    Defect(
        "failing-goes-silent",
        "what has failed is told of no more (A 9)",
        "coordinator/bindings/store.py",
        "WHERE renew_at <= $1 AND declined_at IS NULL AND NOT EXISTS (\n          SELECT FROM jobs "
        "WHERE jobs.certificate_id = holders.certificate_id AND jobs.agent_id = holders.agent_id\n"
        "            AND kind = 'issuance' AND state IN ('AwaitingCSR', 'AwaitingApproval', 'AwaitingCA'))\n"
        "        ORDER BY renew_at LIMIT $2",
        "WHERE renew_at <= $1 AND declined_at IS NULL AND NOT EXISTS (\n          SELECT FROM jobs "
        "WHERE jobs.certificate_id = holders.certificate_id AND jobs.agent_id = holders.agent_id\n"
        "            AND kind = 'issuance' AND state <> 'Completed')\n"
        "        ORDER BY renew_at LIMIT $2",
        (f"{_WEAK}a9_a_cancelled_renewal_does_not_keep_a_certificate_from_the_next",),
    ),
    Defect(
        "attempts-not-kept",
        "attempts are not counted (A 10)",
        "coordinator/bindings/service.py",
        'attempt = job["attempt"] + 1',
        'attempt = job["attempt"]',
        (f"{_WEAK}a10_attempts_and_times_are_kept_and_pauses_grow",),
    ),
    Defect(
        "large-page-cut",
        "who asks for more than 500 rows gets 50 and is not told (A 13)",
        "coordinator/web/paging.py",
        "    if not 1 <= size <= MAX_ROWS:\n",
        "    size = 50 if size > MAX_ROWS else size\n    if not 1 <= size:\n",
        (f"{_WEAK}a13_a_list_of_more_than_500_is_whole_or_refused_never_cut",),
    ),
    Defect(
        "cursor-not-read",
        "a cursor leads to the first page again (A 14)",
        "coordinator/web/paging.py",
        "return Window(size, 0, _decode_cursor(query.cursor, listing, order), None, order)",
        "return Window(size, 0, None, None, order)",
        (f"{_WEAK}a14_a_cursor_leads_on_and_a_wrong_one_is_refused",),
    ),
    Defect(
        "serial-looked-up-padded",
        "a certificate is looked up by its serial number with the zeros that it is not stored with (A 18)",
        "core/acme.py",
        'serial_hex(int.from_bytes(serial, "big"))',
        "serial.hex()",
        (f"{_WEAK_ACME}a18_a_certificate_is_found_by_its_serial_number_whatever_that_begins_with",),
    ),
    Defect(
        "account-key-forgotten",
        "each start has another key for its account at an authority (A 20)",
        "coordinator/ordering/accounts.py",
        "    key = _opened(ctx, row)\n",
        "    key = AccountKey.new()\n",
        (f"{_WEAK_ACME}a20_an_account_at_an_authority_outlives_its_coordinator",),
    ),
    Defect(
        "asked-by-the-hash",
        "an authority is asked when to renew by a hash of the certificate (A 20)",
        "connectors/issuers/acme/renewal_info.py",
        "renewal_info, certificate_id_of(certificate)\n",
        'renewal_info, __import__("hashlib").sha256(certificate.tbs_certificate_bytes).hexdigest()\n',
        (f"{_WEAK_ACME}a20_an_authority_is_asked_when_to_renew_by_the_identifier_of_rfc_9773",),
    ),
)
