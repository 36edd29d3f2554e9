"""A deployment tried out: everything up to the first change that anybody could see, with the same steps and causes.

A throw-away certificate, signed by its own key, stands in for the one to come: it is staged, given to the daemon's own
program to try, and removed again. It is never published, and nothing is reloaded. An interrupted trial leaves at most
staged files, which the next look at the target sweeps away.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.deployment import service
from agent.deployment.commands import ENVIRONMENT
from agent.deployment.member import Member, Tools
from agent.deployment.outcome import Progress
from agent.deployment.prepare import Endpoint
from agent.deployment.remote import PreparedDelivery
from connectors.targets.base import Command, Runner
from core.errors import Misconfigured, Refused, Transient
from core.names import Name, NameKind
from core.secret import Secret
from core.wire import DeploymentItem, TrialItem

in_thread = trio.to_thread.run_sync

_LIFE = timedelta(hours=1)
_SUDO_S = 10.0
_STAND_IN = "certctl-test.invalid"


def stand_in(item: TrialItem) -> tuple[DeploymentItem, Secret[bytes]]:
    """Return a deployment of a throw-away certificate to the target, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _STAND_IN)])
    names = item.names or (Name(NameKind.DNS, _STAND_IN),)
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LIFE)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectAlternativeName([each.general_name() for each in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    deployment = DeploymentItem(
        job_id=item.trial_id,
        lease_epoch=0,
        certificate_id=item.trial_id,
        version_id=item.trial_id,
        target_id=item.target_id,
        target_type=item.target_type,
        config=item.config,
        chain=(der,),
        fingerprint=sha256(der).hexdigest(),
        spki_sha256=sha256(spki).hexdigest(),
        names=item.names,
        sealed=item.sealed,
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return deployment, Secret(pem)


async def try_files(member: Member, tools: Tools) -> None:
    """Try a deployment to files of this host; the caller holds the service's lock. Raises what a deployment would."""
    progress, prepared = member.progress, member.prepared
    with progress.doing("repaired", record=False):
        if await in_thread(tools.journals.read, member.target_id) is not None:
            raise Transient("an interrupted deployment of this target is not undone yet; the agent's log says why")
    with progress.doing("looked"):
        snapshot = await in_thread(member.installation.look)
    with _without_new_folders([path.parent for path in member.paths]):
        try:
            with progress.doing("staged"):
                await in_thread(member.installation.stage, snapshot)
                _check_writable(sorted(path.parent for path in member.paths))
            with progress.doing("validated"):
                await service.try_staged(prepared, [member.installation.staged()], tools.scratch, tools.runner)
        finally:
            with trio.CancelScope(shield=True):
                await in_thread(member.installation.discard)
    with progress.doing("checked", record=prepared.commands.check is not None):
        await service.check_live(prepared.commands, tools.runner)
    with progress.doing("reloadable", record=prepared.commands.reload is not None):
        if prepared.commands.reload is not None:
            await _check_may_run(prepared.commands.reload, tools.runner)
    await _check_answers(prepared.endpoint, progress, tools)


async def try_remote(prepared: PreparedDelivery, progress: Progress, tools: Tools) -> None:
    """Try a delivery: reach its place and read it, which takes the same account and the same rights to read."""
    with progress.doing("reached"):
        async with prepared.connector.reach(prepared.service, prepared.config) as place:
            with progress.doing("looked"):
                await place.look(prepared.delivery)
            progress.current = "reached"
    if prepared.endpoint is not None:
        await _check_answers(prepared.endpoint, progress, tools)


async def _check_answers(endpoint: Endpoint, progress: Progress, tools: Tools) -> None:
    with progress.doing("answered"):
        await tools.probe(
            endpoint.host,
            endpoint.port,
            sni=endpoint.sni,
            timeout_s=endpoint.timeout_s,
            protocol=endpoint.protocol,
        )


async def _check_may_run(command: Command, runner: Runner) -> None:
    """Raise unless the program is there and this user may run it; of ``sudo`` its own rules are asked."""
    program = command.argv[0]
    if shutil.which(program, path=ENVIRONMENT["PATH"]) is None:
        raise Misconfigured(f"`{' '.join(command.argv)}` cannot be run: {program} is no program this agent may run")
    if Path(program).name == "sudo":
        rest = [word for word in command.argv[1:] if word not in {"-n", "--non-interactive", "--"}]
        asked = Command((program, "-n", "-l", "--", *rest), timeout_s=_SUDO_S)
        if (await runner.run(asked)).returncode != 0:
            raise Refused(f"sudo does not let this agent run `{' '.join(rest)}` without a password; add it to sudoers")


def _check_writable(folders: Sequence[Path]) -> None:
    for folder in folders:
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            raise Misconfigured(f"the agent may not write into {folder}; give its user that right")


@contextmanager
def _without_new_folders(folders: Sequence[Path]) -> Iterator[None]:
    """Remove, in the end, those of the folders and of the ones above them that were not there before."""
    missing = {each for folder in folders for each in (folder, *folder.parents) if not each.is_dir()}
    try:
        yield
    finally:
        for folder in sorted(missing, reverse=True):
            with suppress(OSError):
                folder.rmdir()
