"""How the tests are shared out among processes: which begin first, which stay together.

Rules
- The tests of a file run one after the other in one process: what they share is made
  once, and no two of them meet. Those of the files in `APART` share nothing.
- What takes long begins first: begun last, it would run on when all else is over.
- There are two processes for each core: tests wait more than they compute.
"""

from collections import Counter

import pytest
from xdist.remote import Producer
from xdist.scheduler.loadscope import LoadScopeScheduling

from asyncflow import capacity

#: processes: each has all tests loaded, and a browser at times
MOST = 16
#: files that take long; those that compute between those that wait
LONGEST = (
    "tests/crash/test_kills.py",
    "tests/packaging/test_wheel.py",
    "tests/crash/test_points.py",
    "tests/browser/test_admin_page.py",
    "tests/packaging/test_backup.py",
    "tests/faults/test_few_descriptors.py",
    "tests/browser/test_upload_page.py",
    "tests/faults/test_stopping.py",
    "tests/faults/test_full_disk.py",
    "tests/browser/test_silent_networks.py",
    "tests/tasks/test_own_modules.py",
    "tests/tasks/test_endings.py",
    "tests/cli/test_demo.py",
    "tests/web/test_retention.py",
)
#: files whose tests may run in several processes at once
APART = frozenset({"tests/crash/test_points.py"})


def count() -> int:
    """Return how many processes run tests."""
    return min(2 * capacity.default_size(), MOST)


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
