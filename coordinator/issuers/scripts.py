"""Which programs an issuer may have run here: whoever may change issuers shall not thereby run what they like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from connectors.issuers.acme.dns.script import ScriptConfig
from core.errors import InvalidInput

if TYPE_CHECKING:
    from coordinator.context import Context


def check(ctx: Context, config: ScriptConfig) -> None:
    """Raise ``InvalidInput`` for a program that the host's administrator has not allowed."""
    settings = ctx.settings.issuing
    folder = settings.dns_scripts_dir
    for field, argv in (("present", config.present), ("clean_up", config.clean_up)):
        if not argv or (argv[0] in settings.dns_scripts and len(argv) == 1):
            continue
        program = Path(argv[0])
        if not program.is_absolute() or not program.resolve().is_relative_to(folder.resolve()):
            raise InvalidInput.of(
                f"config.dns.script.{field}[0]",
                f"must lie below {folder} (CERTCTL_ACME_DNS_SCRIPTS_DIR), where the host's administrator puts it",
            )
