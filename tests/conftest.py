"""Options, markers and fixtures that all tests share.

A test that uses a program outside Python says so: `@pytest.mark.needs("strace")`. Where
the program is missing the test is left out and counted at the end; with `--all` the
missing program is a failure instead, and so is every skipped test.

A test that asks for the fixture `corpus` runs where a folder of real files is at hand:
`ASYNCFLOW_CORPUS`, or `shared/corpus` beside the repository. Others make their own.
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import hypothesis
import pytest
import structlog
from xdist.remote import Producer
from xdist.workermanage import WorkerController

from tests import sharing_out

ROOT = Path(__file__).resolve().parent.parent
NEEDS = ROOT / "tests" / "needs.txt"
CORPUS = Path(
    os.environ.get("ASYNCFLOW_CORPUS") or ROOT.parent / "shared" / "corpus"
).absolute()

# a slow moment of a shared machine is no failure
hypothesis.settings.register_profile("asyncflow", deadline=None)
hypothesis.settings.load_profile("asyncflow")

OPEN = Path("/dev/fd")
#: descriptors: what a fixture of a whole module may keep for the tests to come
MOST_LEFT_OPEN = 32

_left_out = pytest.StashKey[Counter[str]]()


@pytest.fixture(autouse=True)
def _fresh_logging() -> None:
    """Let no test inherit the log that another one configured."""
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _descriptors_are_closed() -> Iterator[None]:
    """Let no test leave many open files to those that come after it."""
    before = len(list(OPEN.iterdir()))
    yield
    assert len(list(OPEN.iterdir())) <= before + MOST_LEFT_OPEN


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all",
        action="store_true",
        help="demand every test: missing programs and skips are failures",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_left_out] = Counter()
    config.addinivalue_line(
        "markers", "needs(program): leave out where this program is not installed"
    )


@cache
def known_needs() -> frozenset[str]:
    """Return the programs that tests may need: those `./run test --all` installs."""
    lines = NEEDS.read_text(encoding="utf-8").splitlines()
    return frozenset(ln.split()[0] for ln in lines if ln and not ln.startswith("#"))


def _needed(item: pytest.Item) -> list[str]:
    return [str(one) for mark in item.iter_markers("needs") for one in mark.args]


def _missing(item: pytest.Item) -> list[str]:
    return [one for one in _needed(item) if shutil.which(one) is None]


def _lacks(item: pytest.Item, *, demand_all: bool) -> list[str]:
    # one that nobody would install is missing nowhere: its test fails
    missing = [one for one in _missing(item) if one in known_needs()]
    lacks = [] if demand_all else missing
    if "corpus" in getattr(item, "fixturenames", ()) and not CORPUS.is_dir():
        lacks.append("a corpus folder")
    return lacks


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    if _is_shared_out(config):
        items.sort(key=lambda item: sharing_out.turn(item.nodeid))
    kept: list[pytest.Item] = []
    gone: list[pytest.Item] = []
    for item in items:
        lacks = _lacks(item, demand_all=bool(config.getoption("--all")))
        config.stash[_left_out].update(lacks)
        (gone if lacks else kept).append(item)
    if gone:
        config.hook.pytest_deselected(items=gone)
        items[:] = kept


def pytest_runtest_setup(item: pytest.Item) -> None:
    unlisted = set(_needed(item)) - known_needs()
    if unlisted:
        pytest.fail(f"not in {NEEDS.name}: {', '.join(unlisted)}", pytrace=False)
    missing = _missing(item)
    if missing:
        pytest.fail(f"this test needs {', '.join(missing)}", pytrace=False)


def _is_shared_out(config: pytest.Config) -> bool:
    """Tell whether this process runs a part of the tests for another one."""
    return hasattr(config, "workeroutput")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return sharing_out.count()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(
    config: pytest.Config, log: Producer
) -> sharing_out.Sharing:
    return sharing_out.Sharing(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController) -> None:
    # each of them has looked at all tests
    told: dict[str, int] = getattr(node, "workeroutput", {}).get("left_out", {})
    seen = node.config.stash[_left_out]
    for lacking, tests in told.items():
        seen[lacking] = max(seen[lacking], tests)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _is_shared_out(session.config):
        left_out = session.config.stash[_left_out]
        vars(session.config)["workeroutput"]["left_out"] = dict(left_out)
    if session.config.getoption("--all") and _skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _skipped(config: pytest.Config) -> int:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return len(reporter.stats.get("skipped", ())) if reporter else 0


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"tried again: {report.nodeid}")
        terminalreporter.write_line(report.longreprtext)
    for lacking, count in sorted(config.stash[_left_out].items()):
        tests = "1 test needs" if count == 1 else f"{count} tests need"
        terminalreporter.write_line(f"not run here: {tests} {lacking}")
    if config.getoption("--all") and _skipped(config):
        terminalreporter.write_line("--all: a skipped test is a failure", red=True)


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Return the folder of real and hostile files."""
    return CORPUS
