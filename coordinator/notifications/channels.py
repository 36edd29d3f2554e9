"""The channels of this installation: each is there when its settings are."""

from __future__ import annotations

from typing import Literal, get_args

from connectors.notifiers.base import Notifier
from connectors.notifiers.log import Log
from connectors.notifiers.smtp import Mail
from connectors.notifiers.webhook import Webhook
from coordinator.settings import Settings

Channel = Literal["log", "webhook", "email"]
CHANNELS: tuple[Channel, ...] = get_args(Channel)
NEEDS = {"webhook": "CERTCTL_WEBHOOK_URL", "email": "CERTCTL_SMTP_HOST and CERTCTL_SMTP_FROM_ADDRESS"}


def topic(channel: str) -> str:
    """Return the name of the loop that delivers on a channel, which is what wakes it."""
    return f"notifications-{channel}"


def notifier(settings: Settings, channel: str) -> Notifier | None:
    """Return a channel, ready to be used; None for one that has no settings here."""
    if channel == "log":
        return Log()
    if channel == "webhook" and settings.webhook_url:
        return Webhook(settings.webhook_url, settings.webhook_secret)
    if channel == "email" and settings.mail_server:
        return Mail(settings.mail_server)
    return None


def configured(settings: Settings) -> list[str]:
    """Return the names of the channels that are there."""
    return [channel for channel in CHANNELS if notifier(settings, channel) is not None]


def missing(channel: str) -> str:
    """Say why a channel is not there, and what to do."""
    if channel in NEEDS:
        return f"the channel {channel} is not set up: set {NEEDS[channel]} and requeue this"
    return f"there is no channel {channel!r}; there are {', '.join(CHANNELS)}"
