"""The doorbell: tells consumers that steps are ready, and nothing else.

The step row is the truth. A lost ring is repeated by the reconciler, a doubled one
finds nothing to claim; so a message carries no state and is acknowledged at once.
"""

from collections.abc import Iterable
from typing import Protocol


class Doorbell(Protocol):
    """One bell per consumer name."""

    def ring(self, consumers: Iterable[str]) -> None:
        """Tell whoever serves *consumers* that steps may be ready. Never blocks."""
        ...

    async def wait(self, consumers: frozenset[str]) -> None:
        """Return once one of *consumers* was rung since the last return."""
        ...
