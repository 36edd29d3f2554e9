"""Looks at challenges of ACME clients from where this host stands (CA/Browser Forum BR 3.2.2.9).

The coordinator has looked already, and asks whether the name answers here as it does there. It says what is looked
for; the host alone says whether that is done at all, and where it may lead (``[perspective]`` in agent.toml): a
coordinator in the wrong hands gets to see no more of this network than its host gives away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog
import trio

from agent.backoff import until_answered
from agent.coordinator import Coordinator
from agent.policy import HostPolicy, Perspective
from core.crash import crash_point
from core.errors import CertctlError
from core.wire import LookItem, LookReport

if TYPE_CHECKING:
    from connectors.validation.service import Validator

log = structlog.get_logger(__name__)
DEADLINE_S = 20.0
"""How long a look may take, and how long it may wait for its turn: the coordinator waits for 45 seconds."""
MOST_IN_HAND = 64
_MOST_DETAIL = 1000


class Looks:
    """What is looked at just now."""

    def __init__(self, client: Coordinator, policy: Callable[[], HostPolicy], stopping: trio.Event) -> None:
        self._client, self._policy, self._stopping = client, policy, stopping
        self._in_hand: set[str] = set()
        self._made_of: Perspective | None = None
        self._validator: Validator | None = None

    def take(self, item: LookItem, nursery: trio.Nursery) -> None:
        """Look at a challenge and tell of it; what is more than can be looked at is left to be offered again."""
        if item.look_id not in self._in_hand and len(self._in_hand) < MOST_IN_HAND:
            self._in_hand.add(item.look_id)
            nursery.start_soon(self._do, item)

    async def _do(self, item: LookItem) -> None:
        try:
            report = await self._look(item)
            crash_point("look.taken")
            log.info("challenge_looked_at", name=str(item.name), challenge=item.type, state=report.state)
            await until_answered(
                "look", lambda: self._client.report_look(item.look_id, report), stopping=self._stopping
            )
        except CertctlError as error:
            log.warning("look_not_taken", detail=error.detail)
        finally:
            self._in_hand.discard(item.look_id)

    async def _look(self, item: LookItem) -> LookReport:
        policy = self._policy()
        if not policy.perspective.enabled:
            remedy = f"to allow it, set enabled = true in [perspective] in {policy.source}"
            return LookReport("none", detail=f"this host lets its agent look at no challenges; {remedy}")
        from connectors.validation.service import Asked, Busy, Failed, printable  # noqa: PLC0415 - heavy, seldom of use

        validator = self._of(policy.perspective).of_authority(item.caa_identities, item.persist_issuers)
        asked = Asked(item.type, item.name, item.wildcard, item.token, item.thumbprint, item.account_url)
        evidence = []
        try:
            evidence.append(await validator.validate(asked))
            caa = await validator.check_caa(
                item.name, wildcard=item.wildcard, account_url=item.account_url, challenge=item.type
            )
            evidence += [caa] if caa is not None else []
        except Busy as error:
            return LookReport("busy", detail=printable(error.detail, _MOST_DETAIL))
        except Failed as error:
            detail = printable(error.detail, _MOST_DETAIL)
            return LookReport("failed", error.type, detail, (*evidence, error.evidence))
        return LookReport("seen", evidence=tuple(evidence))

    def _of(self, perspective: Perspective) -> Validator:
        """Return the validator of these rules: one for all looks, since it bounds how many are taken at once."""
        from connectors.validation.service import Settings, Validator  # noqa: PLC0415 - see above

        if self._validator is None or self._made_of != perspective:
            settings = Settings(
                resolvers=perspective.servers,
                http_port=perspective.http_port,
                tls_port=perspective.tls_port,
                allowed_networks=perspective.networks,
                private_networks=False,
                here="the perspective",
                deadline_s=DEADLINE_S,
            )
            self._made_of, self._validator = perspective, Validator(settings)
        return self._validator
