"""``python -m benchmarks.run [NAME] [options]``: lists the benchmarks, or runs one.

Owns: the list. A benchmark is a module with ``SUMMARY`` (one line), ``add_arguments(parser)`` and ``run(options)``, which prints its tables
and returns what the last line of output holds, as JSON. Refuses: judging; bars are for people who read the figures and know the machine.
Exit codes: 0 when it was measured, 1 when it could not be, 2 for wrong arguments.
"""

import argparse
import importlib
import json
import sys
from types import ModuleType
from typing import Final

from benchmarks.harness import report
from benchmarks.harness.errors import BenchmarkError

BENCHMARKS: Final = {name: f"benchmarks.{name}.benchmark" for name in ("admission", "crowd", "growth", "livekit", "stampede")}


def main(arguments: list[str]) -> int:
    """Run what the arguments ask for and return the exit code."""
    if not arguments:
        _list()
        return 0
    parser = argparse.ArgumentParser(prog="make bench", description="Without a name, lists the benchmarks.")
    names = parser.add_subparsers(dest="name", required=True)
    modules = {name: importlib.import_module(path) for name, path in BENCHMARKS.items()}
    for name, module in modules.items():
        module.add_arguments(names.add_parser(name, help=module.SUMMARY, description=module.SUMMARY))
    options = parser.parse_args(arguments)
    return _run(options.name, modules[options.name], options)


def _run(name: str, module: ModuleType, options: argparse.Namespace) -> int:
    print(f"{name}: {report.machine()}")
    print(report.load("at the start"), flush=True)
    try:
        figures = module.run(options)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(report.load("at the end"))
    print(json.dumps(figures), flush=True)
    return 0


def _list() -> None:
    for name, path in BENCHMARKS.items():
        print(f"  make bench NAME={name:<10} {importlib.import_module(path).SUMMARY}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
