"""Plots as PNG files in ``benchmarks/results``, drawn without a display.

matplotlib comes with ``benchmarks/requirements.txt``; where it is not installed (tests), figures are printed all the same.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).resolve().parent.parent / "results"


def say(path: Path | None) -> None:
    """Print where the plot is."""
    print(f"\nplot: {path.relative_to(RESULTS.parent.parent)}" if path else "\nno plot: matplotlib is not installed")


def save(name: str, draw: Callable[[Any], None], *, panels: int = 1, width: float = 7.0, height: float = 4.5) -> Path | None:
    """Draw a plot and return its file; None where there is no matplotlib.

    Args:
        name: Of the file, without its ending.
        draw: Takes the list of panels, matplotlib's ``Axes``.
        panels: Side by side.
        width: Inches of one panel.
        height: Inches.
    """
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError:
        return None
    matplotlib.use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    shape, axes = pyplot.subplots(1, panels, figsize=(width * panels, height), squeeze=False)
    draw(list(axes[0]))
    shape.tight_layout()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.png"
    shape.savefig(path, dpi=110)
    pyplot.close(shape)
    return path
