"""From settings to a serving coordinator, and back down in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import tempfile
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import structlog

from coordinator import serving
from coordinator.access import service as access
from coordinator.access import uses
from coordinator.agents import watch
from coordinator.app import create_app, create_pki_app
from coordinator.audit import sealing
from coordinator.context import Context
from coordinator.database import roles
from coordinator.database.embedded import EmbeddedPostgres
from coordinator.database.migrations import migrate
from coordinator.database.pool import OWNER_VARIABLE, VARIABLE, Database
from coordinator.encryption import service as encryption
from coordinator.files import alone_in, write_durably
from coordinator.issuance import keymaking
from coordinator.issuers import service as issuers
from coordinator.loops import service as loops
from coordinator.notifications import service as notifications
from coordinator.oidc.provider import Provider
from coordinator.profiles import service as profiles
from coordinator.server_tls import service as server_tls
from coordinator.settings import Settings
from core.clock import Clock, SystemClock
from core.crash import crash_point
from core.errors import Misconfigured, Transient
from core.sealing import Sealer
from core.secret import Secret

log = structlog.get_logger()
_GOODBYE_S = 2.0
_MOST_CLOCK_ERROR = timedelta(minutes=1)
_CERTIFICATE_CHECK_S = 30.0


async def serve(settings: Settings) -> None:
    """Serve until a signal says stop. Raises ``Misconfigured`` for whatever prevents the start."""
    sockets = serving.bind_all(settings)
    async with open_context(settings) as ctx:
        tls = await server_tls.prepare(ctx)
        ctx.server_root = tls.root_pem
        most = settings.max_body_bytes
        servers = [(serving.server(create_app(ctx), tls.context, max_body_bytes=most), sockets.https)]
        if sockets.pki:
            servers.append((serving.server(create_pki_app(ctx), max_body_bytes=most), sockets.pki))
        if sockets.metrics:
            servers.append((serving.server(serving.metrics_app(ctx)), sockets.metrics))

        def stop() -> None:
            ctx.stopping = True
            ctx.db.wakeups.wake_everybody()

        tasks = [
            asyncio.create_task(loops.run(ctx)),
            asyncio.create_task(_watch_certificate(tls)),
            asyncio.create_task(watch.run(ctx)),
            asyncio.create_task(uses.run(ctx)),
        ]
        for warning in keymaking.warnings(ctx):
            log.warning("dangerous_setting", detail=warning)
        # What was made so far stays: a collection that looks at all of it again holds every request up for 50 ms.
        gc.collect()
        gc.freeze()
        log.info("serving", url=settings.url, pki_url=settings.pki_url or "off", data_dir=str(settings.data_dir))
        try:
            await serving.serve_until_stopped(servers, on_stop=stop, on_reload=tls.reload)
        finally:
            stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await ctx.ordering.stop()
    log.info("stopped")


async def _watch_certificate(tls: server_tls.ServerTLS) -> None:
    while True:
        await asyncio.sleep(_CERTIFICATE_CHECK_S)
        tls.refresh()


@contextlib.asynccontextmanager
async def open_context(settings: Settings, clock: Clock | None = None) -> AsyncIterator[Context]:
    """Open the database, bring it up to date, and see that the ready-made rows are there."""
    make_data_dir(settings.data_dir)
    sealer = open_sealer(settings)
    async with _database(settings) as access:
        await _bring_up_to_date(access, settings)
        weak = tuple(await roles.weaknesses(access.application))
        db = await Database.open(access.application)
        try:
            ctx = Context(settings=settings, db=db, clock=clock or SystemClock(), sealer=sealer)
            ctx.trail.weaknesses = weak
            ctx.provider = Provider(settings.oidc) if settings.oidc else None
            await first_rows(ctx)
            sealing.export_key(ctx, settings.data_dir / "audit.pub")
            yield ctx
            with contextlib.suppress(Transient, TimeoutError):
                async with asyncio.timeout(_GOODBYE_S):
                    await encryption.leave(ctx)
        finally:
            await db.close()


async def _bring_up_to_date(access: roles.Access, settings: Settings) -> None:
    variable = OWNER_VARIABLE if access.separate else VARIABLE
    try:
        applied = await migrate(access.owner, variable=variable)
    except Transient as error:
        raise Misconfigured(f"{variable}: the schema cannot be brought up to date: {error.detail}") from error
    if applied:
        log.info("schema_migrated", to=", ".join(str(migration) for migration in applied))
    await roles.prepare(access, settings.audit_retention)


@contextlib.asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[roles.Access]:
    if settings.database_url is not None:
        owner = settings.database_owner_url or settings.database_url
        yield roles.Access(settings.database_url.reveal(), owner.reveal())
        return
    postgres = EmbeddedPostgres(settings.data_dir)
    dsn = await postgres.start()
    try:
        await roles.make_application(dsn)
        yield roles.Access(postgres.as_role(dsn, roles.APPLICATION), dsn)
    finally:
        await postgres.stop()


async def first_rows(ctx: Context) -> None:
    """Create what every installation starts with; replicas that start at once come here one after another."""
    async with ctx.db.transaction() as tx:
        await encryption.begin(ctx, tx)
        await _check_clock(ctx, await tx.fetchval("SELECT clock_timestamp()"))
        await sealing.begin(ctx, tx)
        await issuers.seal_keys_anew(ctx, tx)
        await server_tls.seal_key_anew(ctx, tx)
        await issuers.ensure_local(ctx, tx)
        await issuers.seed(ctx, tx)
        await profiles.ensure_defaults(tx, issuers.LOCAL)
        await notifications.prepare(ctx, tx)
        await access.take_environment_keys(tx, ctx.settings.api_keys)
        key_path = ctx.settings.data_dir / "admin.key"
        if await access.make_first_key(tx, key_path):
            log.info("admin_key_made", path=str(key_path))
        crash_point("start.first_rows")
    crash_point("start.rows_committed")


async def _check_clock(ctx: Context, database_now: object) -> None:
    skew = ctx.clock.now() - database_now  # type: ignore[operator]  # asyncpg gives a datetime
    if isinstance(ctx.clock, SystemClock) and abs(skew) > _MOST_CLOCK_ERROR:
        seconds = abs(skew.total_seconds())
        raise Misconfigured(
            f"this host's clock and the database's differ by {seconds:.0f} s; set both by NTP and start again"
        )


def make_data_dir(path: Path) -> None:
    """Make the data folder, 0700; raise ``Misconfigured`` when it cannot be written to."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A file without a name, where the system has such: a crash leaves nothing behind.
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        message = f"CERTCTL_DATA_DIR: {path} cannot be written to ({error.strerror}); give a folder of this user's own"
        raise Misconfigured(message) from error


def open_sealer(settings: Settings, *, make: bool = True) -> Sealer:
    """Return the sealer of stored secrets; its key is made in DATA_DIR at the first start unless it was given.

    Raises ``Misconfigured`` when there is none and none is to be made.
    """
    path = settings.data_dir / "encryption.key"
    if not make and settings.encryption_key is None and not path.exists():
        raise Misconfigured(f"CERTCTL_CONFIG_ENCRYPTION_KEY is not set and {path} is not there: give the coordinator's")
    return Sealer(settings.encryption_key or _own_key(path), settings.previous_encryption_key)


def _own_key(path: Path) -> Secret[bytes]:
    try:
        with alone_in(path.parent):
            if not path.exists():
                # On the disk before anything is sealed with it: without it, what is sealed is lost.
                write_durably(path, os.urandom(48).hex().encode())
                crash_point("start.encryption_key")
        return Secret(path.read_bytes().strip())
    except OSError as error:
        raise Misconfigured(f"CERTCTL_DATA_DIR: {path} cannot be used ({error.strerror})") from error
