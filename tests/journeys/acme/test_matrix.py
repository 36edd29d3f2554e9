"""The matrix itself: what is selected, what is never asked, and how results are told."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.lab.processes import REPOSITORY
from tests.journeys.acme.client import Challenge, Feature
from tests.journeys.acme.matrix import Account, Case, Names, every_client, pairwise, whole
from tests.journeys.acme.page import PAGE, kept, page
from tests.journeys.acme.play import OK, Row, slug

EVERYTHING = frozenset(Feature)
WHOLE = whole(every_client(), EVERYTHING, {})


def pairs(cases: Sequence[Case]) -> set[object]:
    return {frozenset(pair) for case in cases for pair in itertools.combinations(enumerate(case), 2)}


def test_the_selection_meets_every_pair_of_the_whole_in_a_fraction_of_its_cases() -> None:
    """And so every client, every challenge and every feature of each client."""
    selection = pairwise(WHOLE)
    assert pairs(selection) == pairs(WHOLE)
    assert len(selection) * 5 < len(WHOLE)


def test_nothing_is_asked_that_no_challenge_can_show() -> None:
    """A wildcard is shown by the DNS alone, and an address never by it."""
    assert {case.challenge for case in WHOLE if case.names is Names.WILDCARD} == {Challenge.DNS_01}
    assert Challenge.DNS_01 not in {case.challenge for case in WHOLE if case.names is Names.IP}


def test_a_server_is_not_asked_for_what_it_cannot_or_is_spared() -> None:
    """A spared pair takes nothing from other clients."""
    first, second = every_client()[:2]
    assert {case.account for case in whole([first, second], EVERYTHING - {Feature.EAB}, {})} == {Account.OPEN}
    spared = whole([first, second], EVERYTHING, {(first.name, Feature.RENEW): "a reason"})
    assert {case.client for case in spared if Feature.RENEW in case.features} == {second}


def test_every_case_has_a_name_of_its_own() -> None:
    """Tests and folders are called by it."""
    assert len({slug(case) for case in WHOLE}) == len(WHOLE)


def test_the_page_shows_for_each_client_what_was_tried_and_what_failed() -> None:
    """One failure of several cases is a failure; what a client cannot is a dash."""
    asked = {"date": "2030-01-02", "server": "S", "client": "lego", "version": "lego 1", "challenge": "http-01"}
    good = Row(**asked, names="one name", account="open", then="renew", outcome=OK, seconds=1.5)
    bad = Row(
        **asked, names="several names", account="open", then="renew", outcome="ClientFailed: no | pipe", seconds=0
    )
    text = page([good, bad])
    assert "| lego | FAILED | – | – | FAILED | – | – | – | FAILED | – | – | – |" in text
    assert "ClientFailed: no \\| pipe" in text
    assert "| lego | `lego 1` | S | 2030-01-02 | 2 | 1.5 |" in text


def test_the_page_is_what_was_played() -> None:
    """All clients were, and none failed."""
    assert page(kept()) == PAGE.read_text(), "run: make journeys"
    assert {client.name for client in every_client()} <= {row.client for row in kept()}
    assert [row for row in kept() if row.outcome != OK] == []


def test_make_journeys_plays_nobody_whom_it_does_not_know() -> None:
    """It names all that it can play: types of targets and clients."""
    argv = [sys.executable, "-m", "tests.journeys", "nginx", "lynx"]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no lynx; there are: acmetool apache caddy certbot 'certbot, new' " in done.stderr
