"""The table: one change to one file, what it would mean, and the tests that must notice.

The old text occurs exactly once in its file (``test_mutants`` looks), so that a defect cannot drift away from the code
that it breaks. It is changed as little as makes the defect, and never into what would not run.
"""

from __future__ import annotations

from tests.mutants.acme import ACME
from tests.mutants.defect import Defect
from tests.mutants.weaknesses import WEAKNESSES

_QUEUE = "tests/coordinator/test_queue.py::test_"
_GATE = "tests/coordinator/test_gate.py::test_"
_POLLING = "tests/coordinator/test_polling.py::test_"
_POOL = "tests/coordinator/database/test_pool.py::test_"
_CRASH = "tests/agent/deployment/test_crash.py::test_"
_GROUP = "tests/agent/deployment/test_group.py::test_"
_KEYS_CUT = "tests/agent/test_keystore_power_cut.py::test_"
_LOOPS = "tests/coordinator/test_admin_loops.py::test_"
_ENCRYPTION = "tests/coordinator/test_encryption.py::test_"
_LOST_ANSWER = f"{_QUEUE}what_is_held_is_not_delivered_again_and_a_lost_answer_is"
_DEPLOYMENT_CUT = "tests/agent/deployment/test_power_cut.py"
_FILES = "tests/coordinator/test_files.py"
_APPROVALS = "tests/coordinator/test_approvals.py::test_"
_NOTIFICATIONS = "tests/coordinator/test_notifications.py::test_"

LEASES = (
    Defect(
        "lease-epoch-unchecked",
        "a late report under an old lease counts",
        "coordinator/jobs/service.py",
        'if job["lease_epoch"] != epoch or epoch == NOT_LEASED:',
        "if epoch == NOT_LEASED:",
        (_LOST_ANSWER, f"{_QUEUE}a_stale_lease_takes_no_csr_and_no_report"),
        core=True,
    ),
    Defect(
        "epoch-not-raised",
        "a job that is delivered again keeps its epoch, so that both deliveries may answer",
        "coordinator/jobs/store.py",
        "lease_epoch = lease_epoch + 1",
        "lease_epoch = greatest(lease_epoch, 1)",
        (_LOST_ANSWER,),
        core=True,
    ),
    Defect(
        "held-ignored",
        "a process is given again what it works on",
        "coordinator/jobs/store.py",
        "AND NOT (lease_owner = $2 AND id = ANY($3))\n          ORDER BY",
        "AND NOT (lease_owner = $2 AND id = ANY($3) AND false)\n          ORDER BY",
        (_LOST_ANSWER,),
    ),
    Defect(
        "boot-ignored",
        "a restarted agent waits for a lease to end before it gets its predecessor's work",
        "coordinator/jobs/store.py",
        "AND NOT (lease_owner = $2 AND id = ANY($3))\n          ORDER BY",
        "AND NOT (id = ANY($3))\n          ORDER BY",
        (f"{_QUEUE}a_restarted_agent_gets_its_predecessors_work_even_while_it_names_it",),
    ),
)

RECONCILER = (
    Defect(
        "unserved-not-found",
        "a target that lost its job is never served",
        "coordinator/bindings/service.py",
        "unserved = await store.unserved_bindings(conn, _BATCH)",
        "unserved: list[Row] = []",
        (f"{_QUEUE}the_reconciler_closes_gaps_between_wanted_and_served",),
        core=True,
    ),
    Defect(
        "expired-not-ended",
        "the deployment of an agent that is gone runs for ever",
        "coordinator/bindings/service.py",
        "silent = await jobs.expired_leases(conn, _BATCH)",
        "silent: list[Row] = []",
        (f"{_QUEUE}an_agent_that_went_silent_costs_an_attempt_not_the_deployment",),
    ),
)

ONE_VERSION = (
    Defect(
        "signed-again",
        "a repeated request gets a second certificate under a new serial number",
        "coordinator/issuance/service.py",
        """        fresh = request["state"] != "issued"
        if fresh:
            job = request["job"]
            jobs.check_unfinished(job)
""",
        """        fresh = bool(request["state"])
        if fresh:
            job = {**request["job"], "state": JobState.AWAITING_CA}
            request = {**request, "serial": serial_hex(new_serial())}
""",
        (f"{_GATE}the_same_csr_again_gets_the_same_answer", f"{_GATE}submissions_at_the_same_time_make_one_version"),
    ),
    Defect(
        "serial-not-from-intent",
        "what a crash interrupted is signed under a serial number that nobody stored before",
        "coordinator/issuance/service.py",
        'serial=int(request["serial"], 16),',
        "serial=new_serial(),",
        (f"{_GATE}a_crash_between_intent_and_answer_is_finished_with_the_same_serial_number",),
    ),
    Defect(
        "key-before-request",
        "an agent killed in between leaves a key that belongs to nothing",
        "agent/keystore.py",
        """        write_private(folder / f"{name}.request", msgspec.json.encode(pending))
        crash_point("keystore.request_written")
        write_private(folder / name, keys.to_pem(key).reveal())
""",
        """        write_private(folder / name, keys.to_pem(key).reveal())
        crash_point("keystore.request_written")
        write_private(folder / f"{name}.request", msgspec.json.encode(pending))
""",
        (
            "tests/agent/test_keystore.py::test_killed_while_it_makes_a_key_it_leaves_none_without_its_request",
            f"{_KEYS_CUT}a_key_whose_request_left_survives_a_cut_at_any_moment",
        ),
    ),
)

UNDO = (
    Defect(
        "journal-after-publish",
        "a crash while files are replaced leaves the new ones, unproved, and nothing to undo them by",
        "agent/deployment/installation.py",
        """            self._journals.write(self.journal)
            crash_point("deploy.journaled")
            publish(self.store, self._files, self.journal)
""",
        """            publish(self.store, self._files, self.journal)
            self._journals.write(self.journal)
            crash_point("deploy.journaled")
""",
        (f"{_CRASH}renewal_interrupted", f"{_CRASH}renewal_of_separate_files_interrupted"),
    ),
    Defect(
        "copies-gone-before-files-are-back",
        "an undo discards its copies of the old files first, and has nothing to put back",
        "agent/deployment/installation.py",
        """        for file in journal.files:
            _put_back_file(store, journal, file)
            crash_point("deploy.undo_file")
        store.point(journal.current_before)
        store.discard(journal.created)
""",
        """        store.point(journal.current_before)
        store.discard(journal.created)
        for file in journal.files:
            _put_back_file(store, journal, file)
            crash_point("deploy.undo_file")
""",
        ("tests/agent/deployment/test_undo.py::test_undo_of_an_adoption_brings_the_plain_files_back",),
        core=True,
    ),
    Defect(
        "undo-noted-before-it-is-done",
        "an undo that was cut off is taken for done",
        "agent/deployment/undo.py",
        """    await in_thread(put_back, journal)
    noted = msgspec.structs.replace(journal, files_back=True)
    await in_thread(folder.write, noted)
""",
        """    noted = msgspec.structs.replace(journal, files_back=True)
    await in_thread(folder.write, noted)
    await in_thread(put_back, journal)
""",
        (f"{_CRASH}undo_interrupted",),
    ),
    Defect(
        "journal-gone-before-files-are-back",
        "a repair that is interrupted is not taken up again",
        "agent/deployment/undo.py",
        """    restored, obstacles = await _restore_all(journals, folder)
    if restored and not commands.watches:
        try:
""",
        """    for journal in journals:
        await in_thread(folder.delete, journal.target_id)
    restored, obstacles = await _restore_all(journals, folder)
    if restored and not commands.watches:
        try:
""",
        (f"{_CRASH}a_repair_interrupted_is_repaired",),
    ),
)

FSYNC = (
    Defect(
        "agent-file-not-flushed",
        "a key whose request left is empty after a power cut",
        "agent/files.py",
        "        os.fsync(file.fileno())\n",
        "",
        (f"{_KEYS_CUT}a_key_whose_request_left_survives_a_cut_at_any_moment",),
        core=True,
    ),
    Defect(
        "agent-folder-not-flushed",
        "a key whose request left has no name after a power cut",
        "agent/files.py",
        "        sync_folder(path.parent)\n",
        "",
        (f"{_KEYS_CUT}a_key_whose_request_left_survives_a_cut_at_any_moment",),
    ),
    Defect(
        "installed-file-not-flushed",
        "an installed file is empty after a power cut",
        "agent/deployment/files.py",
        "        os.fsync(file.fileno())\n",
        "",
        (_DEPLOYMENT_CUT,),
    ),
    Defect(
        "replaced-name-not-flushed",
        "a file that was said to be served, or the journal that undoes it, is the old one after a power cut",
        "agent/deployment/files.py",
        """    crash_point("deploy.beside")
    beside.replace(path)
    sync_folder(path.parent)
""",
        """    crash_point("deploy.beside")
    beside.replace(path)
""",
        (_DEPLOYMENT_CUT,),
    ),
    Defect(
        "coordinator-file-not-flushed",
        "the encryption key, under which everything is sealed by then, is empty after a power cut",
        "coordinator/files.py",
        "        os.fsync(file.fileno())\n",
        "",
        (_FILES,),
    ),
    Defect(
        "coordinator-folder-not-flushed",
        "the encryption key has no name after a power cut",
        "coordinator/files.py",
        "        os.fsync(descriptor)\n",
        "        pass\n",
        (_FILES,),
    ),
)

GROUPS = (
    Defect(
        "trial-not-halved",
        "one pair that the trial refuses holds back all that came with it",
        "agent/deployment/group.py",
        "if len(members) > 1 and isinstance(error, Refused):",
        "if not members:",
        (f"{_GROUP}a_pair_that_the_trial_refuses_is_found_by_halves",),
    ),
    Defect(
        "check-not-halved",
        "one pair that the daemon refuses brings back all that came with it",
        "agent/deployment/group.py",
        "        if len(members) > 1 and back.works:\n",
        "        if not members:\n",
        (f"{_GROUP}a_pair_that_the_live_check_refuses_is_found_by_halves",),
    ),
)

WAKE_UPS = (
    Defect(
        "no-wake-up-after-commit",
        "new work waits until somebody happens to look",
        "coordinator/database/pool.py",
        "            self.wakeups.notify(tx.topics)\n",
        "            pass\n",
        (f"{_QUEUE}a_poll_is_woken_by_new_work_and_only_after_the_commit",),
    ),
    Defect(
        "wake-up-before-commit",
        "who is woken looks too early, sees nothing, and waits on",
        "coordinator/database/pool.py",
        "                yield tx\n",
        "                yield tx\n                self.wakeups.notify(tx.topics)\n",
        (f"{_POOL}wake_ups_are_sent_when_the_change_can_be_seen", f"{_POOL}a_commit_that_fails_wakes_nobody"),
    ),
    Defect(
        "lost-wake-up-not-found",
        "work whose wake-up was lost with its coordinator waits for the end of the poll, ten minutes",
        "coordinator/agents/watch.py",
        "            waiting[agent_id].look_again()\n",
        "            pass\n",
        (f"{_POLLING}work_whose_wake_up_was_lost_is_found",),
    ),
)

SESSIONS = (
    Defect(
        "nonce-used-twice",
        "a signed nonce that was overheard opens a session",
        "coordinator/agents/store.py",
        "DELETE FROM agent_nonces WHERE digest = $1 AND agent_id = $2 RETURNING expires_at > now()",
        "SELECT expires_at > now() FROM agent_nonces WHERE digest = $1 AND agent_id = $2",
        ("tests/coordinator/test_access.py::test_a_session_needs_a_fresh_nonce_and_the_agents_own_signature",),
    ),
    Defect(
        "poll-outlives-session",
        "a poll goes on when its session has ended",
        "coordinator/agents/store.py",
        "WHERE sessions.digest IS NULL OR agents.retired_at IS NOT NULL",
        "WHERE agents.retired_at IS NOT NULL",
        (f"{_POLLING}a_poll_does_not_outlive_its_session",),
    ),
)

APPROVALS = (
    Defect(
        "approval-not-asked-for",
        "what needs approval is signed at once",
        "coordinator/issuance/service.py",
        "waits = await approvals.needed(tx, job, profile, asked)",
        "waits = await approvals.needed(tx, job, profile, asked) and False",
        (f"{_APPROVALS}approval_bypass_by_route",),
    ),
    Defect(
        "approval-of-ones-own",
        "whoever asks for a certificate approves it",
        "coordinator/approvals/deciding.py",
        "if persons & asked:",
        "if persons & asked and False:",
        (f"{_APPROVALS}nobody_approves_what_they_asked_for",),
    ),
    Defect(
        "approval-voted-twice",
        "one person's two keys are two votes",
        "coordinator/approvals/deciding.py",
        'if persons & await store.voters(tx, approval["id"]):',
        'if {str(actor)} & await store.voters(tx, approval["id"]):',
        (f"{_APPROVALS}m_of_n_counts_persons_and_none_of_them_twice",),
    ),
    Defect(
        "approval-of-something-else",
        "what changed between approval and signature is signed",
        "coordinator/issuance/service.py",
        'if request["approved"] is not None and',
        'if request["approved"] is None and',
        (f"{_APPROVALS}what_changes_between_approval_and_signature_is_not_signed",),
    ),
    Defect(
        "approval-after-its-time",
        "what nobody approved in time is asked for again by itself, without end",
        "coordinator/bindings/store.py",
        "WHERE version_id IS NULL AND declined_at IS NULL",
        "WHERE version_id IS NULL",
        (f"{_APPROVALS}approval_bypass_by_timeout",),
    ),
    Defect(
        "requester-forgotten",
        "a retry has nobody who asked for it",
        "coordinator/approvals/service.py",
        "list(question.requested_by) or [NOBODY]",
        "[NOBODY]",
        (f"{_APPROVALS}whoever_asked_cannot_have_the_loops_ask_in_their_place",),
    ),
    Defect(
        "notification-not-retried",
        "a message that did not arrive the first time never does",
        "coordinator/notifications/delivery.py",
        "if attempts >= ATTEMPTS:",
        "if attempts:",
        (f"{_NOTIFICATIONS}a_first_failure_is_tried_again_and_enough_of_them_are_dead",),
    ),
    Defect(
        "mail-in-clear",
        "mail goes unencrypted where it should not",
        "connectors/notifiers/smtp.py",
        "if server.use_tls and server.port != IMPLICIT_TLS_PORT:",
        "if server.use_tls and server.port == 0:",
        ("tests/connectors/notifiers/test_notifiers.py::test_no_mail_goes_in_clear_unless_that_was_wanted",),
    ),
)

BY_ITSELF = (
    Defect(
        "told-again",
        "that a certificate has expired is told with every look",
        "coordinator/certificates/lives.py",
        '        await store.set_told_lives(tx, [(row["id"], row["life"]) for row in rows])\n',
        "",
        (f"{_LOOPS}a_life_is_told_once_by_however_many_coordinators",),
    ),
    Defect(
        "silent-at-once",
        "a coordinator that starts after an outage tells of every agent that it is offline",
        "coordinator/agents/health.py",
        "silent: list[Row] = [] if _not_before_s(ctx) else await store.take_silent(tx, _BATCH)",
        "silent: list[Row] = await store.take_silent(tx, _BATCH)",
        (f"{_LOOPS}an_agent_that_goes_silent_is_told_once_and_so_is_its_return",),
    ),
    Defect(
        "new-key-at-once",
        "a coordinator with a new encryption key stores what those beside it cannot open",
        "coordinator/encryption/service.py",
        "if ctx.sealer.current not in keys]",
        "if not keys]",
        (f"{_ENCRYPTION}while_one_coordinator_does_not_know_the_new_key_nothing_is_sealed_with_it",),
    ),
)

DEFECTS = (
    *LEASES,
    *RECONCILER,
    *ONE_VERSION,
    *UNDO,
    *FSYNC,
    *GROUPS,
    *WAKE_UPS,
    *SESSIONS,
    *APPROVALS,
    *BY_ITSELF,
    *ACME,
    *WEAKNESSES,
)
