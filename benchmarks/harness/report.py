"""What a benchmark prints: the kind of machine without its name, its load, tables, and figures that are fit for JSON."""

import math
import os
import platform
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil


def machine() -> str:
    """Return the kind of machine, and when: no names."""
    memory = psutil.virtual_memory().total / 2**30
    kind = f"{os.cpu_count()} x {_processor()}, {memory:.0f} GiB, {platform.system()} {platform.machine()}"
    software = ", ".join(f"{name} {version(name)}" for name in ("django", "uvicorn", "daphne"))
    return f"{kind}, Python {platform.python_version()}, {software}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def load(when: str = "now") -> str:
    """Return how busy the machine is: what was measured on a busy one says little."""
    return f"load average {when}: " + " ".join(f"{each:.2f}" for each in os.getloadavg())


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return the rows under their columns, the first column to the left, numbers to the right."""
    lines = [list(columns), *([_cell(each) for each in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    text = [
        "  ".join([line[0].ljust(widths[0]), *(each.rjust(width) for each, width in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed; NaN where there are none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def figure(value: float, digits: int = 1) -> float | None:
    """Return the value rounded, None where JSON has no number for it."""
    return round(value, digits) if math.isfinite(value) else None


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}" if math.isfinite(value) else "-"
    return "-" if value is None else str(value)


def _processor() -> str:
    with suppress(OSError):  # not Linux
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "processor"
