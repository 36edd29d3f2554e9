"""Small private files, one struct for each target, which survive the process: journals of deliveries, for one."""

from __future__ import annotations

from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from agent.deployment.files import make_folder, remove
from agent.files import explained, write_private
from core.errors import Misconfigured

T = TypeVar("T", bound=msgspec.Struct)


class Records(Generic[T]):
    """The records of a folder, readable for the agent alone; synchronous.

    ``kind`` is what one is called, ``remedy`` what a person does about a damaged one.
    """

    def __init__(self, folder: Path, record: type[T], kind: str, remedy: str) -> None:
        self._folder, self._record = folder, record
        self._kind, self._remedy = kind, remedy

    def targets(self) -> list[str]:
        """Return the targets that have one."""
        with explained(f"looking for each {self._kind}"):
            return sorted(path.stem for path in self._folder.glob("[!.]*.json"))

    def write(self, target_id: str, record: T) -> None:
        """Store a target's record durably."""
        with explained(f"writing the {self._kind}"):
            make_folder(self._folder, 0o700)
        write_private(self._path(target_id), msgspec.json.encode(record))

    def read(self, target_id: str) -> T | None:
        """Return a target's record, None when there is none."""
        path = self._path(target_id)
        try:
            with explained(f"reading the {self._kind}"):
                return msgspec.json.decode(path.read_bytes(), type=self._record) if path.exists() else None
        except msgspec.DecodeError as error:
            raise Misconfigured(f"the {self._kind} {path} is damaged; {self._remedy}") from error

    def delete(self, target_id: str) -> None:
        """Forget a target's record, if there is one."""
        with explained(f"removing the {self._kind}"):
            remove(self._path(target_id))

    def _path(self, target_id: str) -> Path:
        return self._folder / f"{target_id}.json"
