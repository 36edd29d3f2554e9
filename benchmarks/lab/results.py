"""How a measurement is told: a table for people, JSON for machines."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.lab.processes import REPOSITORY


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 100) * len(ordered) // 100) - 1)]


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return the figures that a table shows."""
    return {
        "p50": percentile(values, 0.50),
        "p95": percentile(values, 0.95),
        "p99": percentile(values, 0.99),
        "max": max(values),
        "mean": statistics.fmean(values),
    }


def table(rows: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """Return rows of figures under their names."""
    columns = list(next(iter(rows.values())))
    head = f"{unit:24}" + "".join(f"{column:>9}" for column in columns)
    lines = [f"{name:24}" + "".join(f"{row[column]:9.1f}" for column in columns) for name, row in rows.items()]
    return "\n".join([head, *lines])


def save(name: str, result: dict[str, Any]) -> Path:
    """Write a result with what it was measured on; return the file."""
    folder = REPOSITORY / "benchmarks" / "results"
    folder.mkdir(exist_ok=True)
    machine = {"cpus": os.cpu_count(), "system": platform.platform(), "python": sys.version.split()[0]}
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"benchmark": name, "machine": machine, **result}, indent=1) + "\n")
    return path
