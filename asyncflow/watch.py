"""Looks at something again and again, whatever a look meets, and says when it fails.

Rules
-----
- Each look is for itself: one that fails keeps no other one from being made.
- A look is short: all of them are made on the loop.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from asyncflow.causes import in_one_line

log = structlog.get_logger(__name__)

_EVERY_S: Final = 0.1


class Watch:
    """Makes the looks that it is given at its start."""

    def __init__(self) -> None:
        self._failing: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def has_begun(self) -> bool:
        """Tell whether it has been started, also if it has ended since."""
        return self._task is not None

    @property
    def trouble(self) -> str | None:
        """Say what nobody sees just now; None: all is seen, or it has not begun."""
        if self._task is not None and self._task.done():
            return "nobody watches over the workers any more"
        for name, why in self._failing.items():
            return f"nobody can watch over {name}: {why}"
        return None

    def start(self, looks: Mapping[str, Callable[[], None]]) -> None:
        """Begin to make *looks*, by the names of what they look at, until `stop`."""
        self._task = asyncio.create_task(self._go_on(looks))

    def stop(self) -> None:
        """Look no more; calling it before `start` is not an error."""
        if self._task is not None:
            self._task.cancel()

    async def _go_on(self, looks: Mapping[str, Callable[[], None]]) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            for name, look in looks.items():
                self._try(name, look)

    def _try(self, name: str, look: Callable[[], None]) -> None:
        try:
            look()
        except Exception as error:  # noqa: BLE001 -- the next look must be made
            why = in_one_line(str(error)) or type(error).__name__
            if name not in self._failing:
                # a traceback for what is no fault of the system's
                tell = log.warning if isinstance(error, OSError) else log.exception
                tell("watch.failed", over=name, why=why)
            self._failing[name] = why
        else:
            if self._failing.pop(name, None) is not None:
                log.info("watch.recovered", over=name)
