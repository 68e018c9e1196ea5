"""`python -m bench [table ...] [--quick] [--dir FOLDER]`: print tables of numbers."""

import argparse
import importlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bench import machine
from bench.rows import Row, as_json, plain

#: in the order in which they are printed: what is most easily disturbed comes first
TABLES: Final = (
    "start",
    "thumbnail",
    "answer",
    "uploads",
    "inserts",
    "claims",
    "pool",
    "jobs",
    "sockets",
    "text",
)
RESULTS: Final = Path(__file__).parent / "results"
_WARM_BYTES: Final = 3 << 30


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what was asked for, print it, write it as JSON; return the exit code."""
    options = _options(argv)
    results: Path = options.results
    results.mkdir(parents=True, exist_ok=True)
    # beside the results, not in /tmp: that is often memory, where a sync costs nothing
    work = Path(tempfile.mkdtemp(prefix="work-", dir=options.dir or results))
    try:
        if not options.quick:
            machine.warm(_WARM_BYTES)
        facts = machine.describe(work)
        _say(_machine_line(facts))
        tables = {name: _measure(name, work, options) for name in _chosen(options)}
    finally:
        shutil.rmtree(work, ignore_errors=True)
    facts = {**facts, "loadAverageAfter": machine.load()}
    _save(results, facts, tables)
    missed = sum(row.is_met is False for rows in tables.values() for row in rows)
    _say(f"\n{missed} targets missed; load average now {machine.load()[0]}")
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="table", help=", ".join(TABLES))
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a smoke test")
    parser.add_argument("--dir", type=Path, help="work here: the disk to measure")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON goes here")
    options = parser.parse_args(argv)
    unknown = [name for name in options.tables if name not in TABLES]
    if unknown:
        parser.error(f"no table {', '.join(unknown)}; accepted: {', '.join(TABLES)}")
    return options


def _chosen(options: argparse.Namespace) -> list[str]:
    return [name for name in TABLES if name in (options.tables or TABLES)]


def _measure(name: str, work: Path, options: argparse.Namespace) -> list[Row]:
    folder = work / name
    folder.mkdir()
    began = time.monotonic()
    rows: list[Row] = importlib.import_module(f"bench.{name}").measure(
        folder, quick=options.quick
    )
    shutil.rmtree(folder)
    _say(f"\n{plain(f'{name} ({time.monotonic() - began:.0f} s)', rows)}")
    return rows


def _machine_line(facts: Mapping[str, object]) -> str:
    return (
        f"{facts['cores']} cores, Linux {facts['kernel']}, Python {facts['python']}, "
        f"load {facts['loadAverage']}, fdatasync p50 {facts['fdatasyncP50Ms']} ms "
        f"p99 {facts['fdatasyncP99Ms']} ms"
    )


def _save(
    results: Path, facts: Mapping[str, object], tables: Mapping[str, Sequence[Row]]
) -> None:
    report = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": facts,
        "tables": {name: as_json(rows) for name, rows in tables.items()},
    }
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path = results / f"{stamp}-{'-'.join(tables) if len(tables) < 3 else 'all'}.json"  # noqa: PLR2004 -- a short name
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
