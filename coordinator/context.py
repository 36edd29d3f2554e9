"""What every room may need, made once at start and passed along; there are no module globals that hold state."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from connectors.issuers.local import LocalIssuer
from coordinator.access.uses import Uses
from coordinator.agents.polling import Polls
from coordinator.audit.sealing import Trail
from coordinator.database.pool import Database
from coordinator.encryption.naming import own_name
from coordinator.enrollment.acme.validating import Validations
from coordinator.events.service import Streams
from coordinator.limits.service import Budgets
from coordinator.metrics.state import State
from coordinator.oidc.provider import Provider
from coordinator.ordering.working import Ordering
from coordinator.settings import Settings
from coordinator.stats.service import AgentNumbers, Kept
from core.clock import Clock
from core.sealing import Sealer


@dataclass
class Context:
    """The coordinator's ports and settings.

    ``signers`` caches opened CA keys by (issuer id, subject key identifier); ``server_root`` is the PEM of the root
    that callers pin, empty when the operator brought a certificate of their own. ``provider`` is where people sign in.
    ``kept_agents`` and ``kept_state`` are numbers that were counted a few seconds ago. ``name`` is this coordinator's
    among those that run.
    """

    settings: Settings
    db: Database
    clock: Clock
    sealer: Sealer
    server_root: bytes = b""
    name: str = field(default_factory=own_name)
    stopping: bool = False
    polls: Polls = field(default_factory=Polls)
    trail: Trail = field(default_factory=Trail)
    uses: Uses = field(default_factory=Uses)
    streams: Streams = field(default_factory=Streams)
    kept_agents: Kept[AgentNumbers] = field(default_factory=Kept)
    kept_state: Kept[State] = field(default_factory=Kept)
    provider: Provider | None = None
    signers: dict[tuple[str, str], LocalIssuer] = field(default_factory=dict)
    opening: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    """Key stores that are opened at once, see ``certificates.opening``."""
    validations: Validations = field(default_factory=Validations)
    ordering: Ordering = field(default_factory=Ordering)
    budgets: Budgets = field(init=False)

    def __post_init__(self) -> None:
        self.budgets = Budgets(self.settings.rate_limits)
