"""First contact: a one-time token makes this agent's public keys known. Repeating it is harmless."""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

from agent.backoff import until_answered
from agent.coordinator import Coordinator
from agent.identity import Identity
from agent.settings import Settings
from core.errors import Misconfigured, Permanent
from core.wire import Enrolled, Enrollment, Metadata

log = structlog.get_logger(__name__)


async def ensure_enrolled(
    settings: Settings,
    identity: Identity,
    client: Coordinator,
    metadata: Metadata,
    note: Callable[[str], None] = lambda _detail: None,
) -> None:
    """Enroll unless that was done, however long the coordinator is away; ``note`` hears what stands in the way.

    Raises ``Misconfigured`` with the coordinator's words when it refuses.
    """
    if identity.agent_id:
        return
    if settings.bootstrap_token is None:
        raise Misconfigured(
            "CERTCTL_AGENT_BOOTSTRAP_TOKEN is not set and this agent is not enrolled: make a token with "
            "'certctl enrollment-tokens create' and start the agent with it once"
        )
    token = settings.bootstrap_token

    async def enroll() -> Enrolled:
        public = identity.signing_public, identity.sealing_public
        message = Enrollment(token.reveal(), settings.name, *public, client.now_ms(), metadata)
        return await client.enroll(message)

    try:
        enrolled = await until_answered("enroll", enroll, note=note)
    except Permanent as error:
        raise Misconfigured(f"the coordinator refuses this agent: {error.detail}") from error
    await trio.to_thread.run_sync(identity.enrolled_as, enrolled.agent_id)
    log.info("enrolled", agent_id=enrolled.agent_id, name=enrolled.name)
