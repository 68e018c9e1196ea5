"""Tells the program that embeds us what happens: one hook at a time, in commit order.

Rules
-----
- A hook never holds up or breaks the engine: what it raises, and what takes longer
  than `timeout_s`, goes to the log.
- What waits for hooks is bounded; what finds no room is dropped, and the log says so.
- Told at most once: what still waits when the process dies is not told again. Who must
  not miss anything reads the jobs themselves after a start.
"""

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec
import structlog

from asyncflow.db.records import Change
from asyncflow.errors import JobNotFound
from asyncflow.jobs import JobState
from asyncflow.views import JobView

T = TypeVar("T")

MAX_WAITING: Final = 10_000
HOOK_S: Final = 30.0
#: what a hook that is stopped has for its `finally` blocks
LAST_S: Final = 1.0


class OwnedJob(JobView, frozen=True, kw_only=True):
    """A job, and whose it is."""

    owner: str
    tenant: str


def owned(view: JobView, *, owner: str, tenant: str) -> OwnedJob:
    """Return *view* with whose it is."""
    return OwnedJob(**msgspec.structs.asdict(view), owner=owner, tenant=tenant)


#: coroutine functions, or plain ones that return at once: they hold up the loop
OnCompleted = Callable[[OwnedJob], Awaitable[object] | object]
OnEvent = Callable[[Change], Awaitable[object] | object]

log = structlog.get_logger(__name__)


class Hooks:
    """Calls *on_event* for each change, *on_completed* for each job that succeeded.

    *look* returns a job as it is now.
    """

    def __init__(
        self,
        *,
        look: Callable[[str], Awaitable[OwnedJob]],
        on_completed: OnCompleted | None = None,
        on_event: OnEvent | None = None,
        max_waiting: int = MAX_WAITING,
        timeout_s: float = HOOK_S,
    ) -> None:
        self._look = look
        self._on_completed, self._on_event = on_completed, on_event
        self._max_waiting, self._timeout_s = max_waiting, timeout_s
        self._waiting: deque[Change] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_ending = False

    def changed(self, change: Change) -> None:
        """Take a committed change; neither blocks nor raises."""
        if not self._concerns(change):
            return
        if len(self._waiting) >= self._max_waiting:
            log.error("hooks.dropped", job=change.job_id, waiting=len(self._waiting))
            return
        self._waiting.append(change)
        self._wake.set()

    def _concerns(self, change: Change) -> bool:
        return self._on_event is not None or (
            self._on_completed is not None and _is_success(change)
        )

    def start(self) -> None:
        """Begin to call the hooks."""
        self._task = asyncio.create_task(self._run(), name="hooks")

    async def stop(self, grace_s: float) -> None:
        """Call the hooks for what still waits, for at most *grace_s*, then end."""
        if self._task is None:
            return
        self._is_ending = True
        self._wake.set()
        await asyncio.wait([self._task], timeout=grace_s)
        self._task.cancel()
        await asyncio.wait([self._task], timeout=LAST_S)
        if not self._task.done():
            log.warning("hooks.go_on")
        self._task = None
        if self._waiting:
            log.warning("hooks.not_told", changes=len(self._waiting))

    async def _run(self) -> None:
        while True:
            while self._waiting:
                await self._tell(self._waiting.popleft())
            if self._is_ending:
                return
            self._wake.clear()
            await self._wake.wait()

    async def _tell(self, change: Change) -> None:
        if self._on_event is not None:
            await self._call("on_event", change.job_id, self._on_event, change)
        if self._on_completed is None or not _is_success(change):
            return
        try:
            view = await self._look(change.job_id)
        except JobNotFound:
            return  # deleted meanwhile
        except Exception:  # the database, in trouble: the next may be told
            log.exception("hooks.failed", hook="on_completed", job=change.job_id)
            return
        await self._call("on_completed", change.job_id, self._on_completed, view)

    async def _call(
        self, name: str, job: str, hook: Callable[[T], object], about: T
    ) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                said = hook(about)
                if inspect.isawaitable(said):
                    await said
        except BaseException as error:
            # whatever a stranger's function raises ends here, SystemExit too, but for
            # our own end
            task = asyncio.current_task()
            is_ours = task is not None and task.cancelling() > 0
            if is_ours and isinstance(error, asyncio.CancelledError):
                raise
            log.exception("hooks.failed", hook=name, job=job)


def _is_success(change: Change) -> bool:
    return change.terminal is not None and change.state is JobState.COMPLETED
