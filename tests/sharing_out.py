"""How the tests are shared out among processes: which begin first, which stay together.

Rules
- The tests of a file run one after the other in one process: what they share is made
  once, and no two of them meet. Those of the files in `APART` share nothing.
- What takes long begins first: begun last, it would run on when all else is over.
- There is one process more than there are cores: tests mostly wait for servers.
"""

import os
from collections import Counter

import pytest
from xdist.remote import Producer
from xdist.scheduler.loadscope import LoadScopeScheduling

#: files and folders that take long, longest first
LONGEST = (
    "tests/crash/test_kills.py",
    "tests/crash/test_points.py",
    "tests/packaging/test_wheel.py",
    "tests/faults",
    "tests/browser",
    "tests/poison",
    "tests/openapi",
)
#: files whose tests may run in several processes at once
APART = frozenset({"tests/crash/test_points.py"})


def count() -> int:
    """Return how many processes run tests."""
    return (os.cpu_count() or 1) + 1


def turn(nodeid: str) -> int:
    """Return when the turn of a test comes; smaller is sooner."""
    for place, name in enumerate(LONGEST):
        if nodeid.startswith(name):
            return place
    return len(LONGEST)


def group(nodeid: str) -> str:
    """Return the name of those that a test stays together with."""
    file = nodeid.partition("::")[0]
    return nodeid if file in APART else file


class Sharing(LoadScopeScheduling):
    """Give each process that is free the next group."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def schedule(self) -> None:
        """Begin, or go on. Raise UsageError if tests would be lost."""
        # they are known by their names: of those of one name one would be run
        for ids in self.registered_collections.values():
            for name, count in Counter(ids).items():
                if count > 1:
                    raise pytest.UsageError(f"{count} tests are called {name}")
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)
