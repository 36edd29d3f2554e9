"""The local page: /health, /metrics and /status, for this host's own monitoring. Nothing here changes anything."""

from __future__ import annotations

import os
import socket

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import Response
from quart_trio import QuartTrio

from agent.activity import Activity
from agent.identity import Identity
from core.errors import Misconfigured

SILENT_S = 180.0
"""How long the coordinator may be silent before this agent counts as unhealthy; a poll is answered within 40 s."""


def open_listener(listen: tuple[str, int]) -> socket.socket:
    """Return a socket that listens there; raise ``Misconfigured`` when that cannot be.

    It is opened once, at the start, and outlives a crash of the page: nobody else can take the port meanwhile.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(*listen, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        where = f"{listen[0]}:{listen[1]}"
        message = f"CERTCTL_AGENT_LISTEN: cannot listen on {where}: {error.strerror}; choose another, or leave it empty"
        raise Misconfigured(message) from error


async def serve_page(listener: socket.socket, identity: Identity, activity: Activity) -> None:
    """Serve the page until cancelled; hypercorn closes the copy of the listener that it is given."""
    config = Config()
    config.bind = [f"fd://{os.dup(listener.fileno())}"]
    config.accesslog, config.errorlog = None, None
    config.include_server_header = False
    await serve(create_page(identity, activity), config, shutdown_trigger=trio.sleep_forever, mode="asgi")


def create_page(identity: Identity, activity: Activity) -> QuartTrio:
    """Return the application behind the page."""
    app = QuartTrio("agent", static_folder=None)

    @app.get("/health")
    async def health() -> tuple[dict[str, object], int]:
        """Say whether the coordinator answered within three minutes."""
        healthy = activity.silent_s() < SILENT_S
        status = "healthy" if healthy else "unhealthy"
        return {"status": status, "last_error": activity.last_error}, 200 if healthy else 503

    @app.get("/status")
    async def status() -> dict[str, object]:
        """Say what is in hand, and what was done since the start."""
        return {
            "agent_id": identity.agent_id,
            "connected": activity.connected,
            "last_error": activity.last_error,
            "in_hand": activity.held,
            "ended": activity.ended,
        }

    @app.get("/metrics")
    async def metrics() -> Response:
        """Say the same as counters for Prometheus."""
        return Response(exposition(activity), content_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def exposition(activity: Activity) -> str:
    """Return the agent's few metrics in the text format."""
    lines = [
        "# HELP certctl_agent_connected Whether the last poll was answered.",
        "# TYPE certctl_agent_connected gauge",
        f"certctl_agent_connected {int(activity.connected)}",
        "# HELP certctl_agent_jobs_in_hand Jobs being worked on.",
        "# TYPE certctl_agent_jobs_in_hand gauge",
        f"certctl_agent_jobs_in_hand {len(activity.held)}",
        "# HELP certctl_agent_jobs_ended_total Jobs ended, by outcome.",
        "# TYPE certctl_agent_jobs_ended_total counter",
        *(f'certctl_agent_jobs_ended_total{{outcome="{name}"}} {count}' for name, count in activity.ended.items()),
    ]
    return "\n".join(lines) + "\n"
