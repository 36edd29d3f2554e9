"""Which cells a point cannot be reached in, and why; the matrix shows each of them to be so."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import NamedTuple

from tests.journeys.crash.points import LAYOUTS, ROADS, Cell


class Unreached(NamedTuple):
    """Points by pattern, and the roads and layouts on which nothing comes to them."""

    points: tuple[str, ...]
    why: str
    roads: tuple[str, ...] = ROADS
    layouts: tuple[str, ...] = LAYOUTS

    def holds(self, cell: Cell) -> bool:
        """Say whether a cell is meant."""
        fits = any(fnmatch(cell.point, pattern) for pattern in self.points)
        return fits and cell.road in self.roads and cell.layout in self.layouts


AFTER_THE_FIRST = ("renewal", "undo")
WITHOUT_UNDO = ("first", "renewal")

UNREACHED = (
    Unreached(("deploy.linked",), "plain files, no links at the paths", layouts=("combined", "separate")),
    Unreached(("deploy.replaced",), "links at the paths, no plain files", layouts=("current",)),
    Unreached(("deploy.undo_*",), "no deployment fails", WITHOUT_UNDO),
    Unreached(("deploy.unnumbered", "deploy.discarded"), "no version is old enough to go", WITHOUT_UNDO),
    Unreached(("deploy.adopted",), "what stands there is a version already", AFTER_THE_FIRST),
    Unreached(("deploy.folder_made",), "the folders are there", AFTER_THE_FIRST),
    Unreached(("identity.*", "enrollment.*"), "an agent enrolls once", AFTER_THE_FIRST),
    Unreached(("keystore.key_removed", "keystore.pruned"), "there is no old key", ("first",)),
    Unreached(("migration.*",), "the schema is up to date", AFTER_THE_FIRST),
    Unreached(
        ("start.encryption_key", "start.admin_key", "start.issuer_key", "start.server_authority", "start.audit_key"),
        "made at the first start only",
        AFTER_THE_FIRST,
    ),
    Unreached(("certificate.created",), "it is wanted already", AFTER_THE_FIRST),
    Unreached(
        ("certificate.changed", "certificate.archived", "certificate.revoked", "certificate.deployment_requested"),
        "nothing is changed before it is there",
        ("first",),
    ),
    Unreached(("drift.found", "drift.told"), "nothing is installed that could be changed", ("first",)),
    Unreached(("certificate.renewal_*",), "no renewal is asked for", ("first",)),
    Unreached(("notification.queued",), "nothing ends before it was issued", ("first",)),
    Unreached(("certificate.life_told",), "nothing has a life to be told of before it was issued", ("first",)),
    Unreached(("renewal.queued",), "nothing is due before it was issued", ("first",)),
    Unreached(
        ("reconcile.issuance_queued",), "a holder that has a version is the renewal loop's to serve", AFTER_THE_FIRST
    ),
)


def why_unreached(cell: Cell) -> str:
    """Return why nothing dies in a cell; empty when something does."""
    return next((unreached.why for unreached in UNREACHED if unreached.holds(cell)), "")
