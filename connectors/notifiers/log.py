"""Messages into the coordinator's own log, where whoever collects logs finds them."""

from __future__ import annotations

import msgspec
import structlog

from connectors.notifiers.base import Message

log = structlog.get_logger()


class Log:
    """It is always there."""

    async def send(self, message: Message, recipient: str) -> None:
        """Write a message as one event, as loud as it is severe."""
        del recipient
        tell = {"info": log.info, "warning": log.warning}.get(message.severity, log.error)
        fields = {name: value for name, value in msgspec.to_builtins(message).items() if name != "id"}
        tell("notification", notification_id=message.id, **fields)
