"""What is asked of every trouble: what is served meanwhile, what a person reads, how it is retried, how it heals."""

from __future__ import annotations

import re

from tests.journeys.faults.ground import Record, pauses

SERVICE = {
    ("deployment", False): "outdated",
    ("deployment", True): "not served",
    ("issuance", False): "served",
    ("issuance", True): "unknown",
}
"""How the certificate's service is called, by what failed and whether it is the first."""


class Questions:
    """For a fixture ``record``."""

    @staticmethod
    def test_what_was_there_stays(record: Record) -> None:
        """Strict clients see the old certificate, where anything of ours can be seen; the files are a matching pair."""
        assert record.pair_held
        if record.trouble.old_is_served and record.before:
            assert record.during == record.before

    @staticmethod
    def test_a_person_reads_why(record: Record) -> None:
        """The same cause on the certificate, on the job, and in what the command prints."""
        last = [job for job in record.jobs if job["state"] == "Failed"][-1]
        assert re.search(record.trouble.cause, last["failure"]["cause"])
        assert last["failure"]["step"] == record.trouble.step
        assert last["undo"] in {"done", "not_needed"}
        assert re.search(record.trouble.cause, record.status["reason"])
        assert record.status["service"] == SERVICE[record.trouble.kind, record.trouble.first]
        assert re.search(record.trouble.cause, record.page)
        assert "attempts failed in a row" in record.page
        assert re.search(record.trouble.cause, record.job_page)

    @staticmethod
    def test_attempts_go_on_and_pauses_grow(record: Record) -> None:
        """Two seconds, then four, each a fifth more or less; there is always a next one."""
        waited = pauses(record.jobs)
        assert 1.6 <= waited[0] <= 2.4
        assert 3.2 <= waited[1] <= 4.8
        assert record.jobs[-1]["state"] not in {"Failed", "Cancelled", "Completed"}

    @staticmethod
    def test_it_heals_by_itself(record: Record) -> None:
        """The next attempt brings the new certificate, or the one after when mending took long; the files match."""
        assert record.after is not None
        assert record.pair_after
        assert record.healed_by <= int(record.jobs[-1]["attempt"]) + 1
