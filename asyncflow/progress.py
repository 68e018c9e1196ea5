"""What watchers of a job are told, and the snapshot that pollers share.

Theory of operation
-------------------
Every committed change passes through `Hub.changed` in commit order. It drops the job's
cached snapshot, then hands one message per moved step to the listeners of that job;
the body is encoded once however many listen. Percentages and byte counts are not
stored: they live here, the newest wins, and at most ten a second go out per job.
How long the steps of a job should still take depends on them, and is told with them.
A listener that joins reads a snapshot and ignores messages that it already contains
(`seq` not above the snapshot's version), so nothing is missed and nothing is doubled.

`Hub` belongs to one event loop; none of it is thread-safe.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Protocol

import msgspec
import structlog

from asyncflow import views
from asyncflow.db.records import Change
from asyncflow.errors import AsyncflowError
from asyncflow.jobs import JobKind, JobState, StepState
from asyncflow.views import JobView

log = structlog.get_logger(__name__)

#: at most ten progress messages a second per job
PROGRESS_EVERY_S = 0.1
SNAPSHOTS_KEPT = 4096
#: listeners that are told before something else gets its turn: a few milliseconds
AT_ONCE = 200

_encode = msgspec.json.Encoder().encode


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Something a watcher is told; `seq` is the job's version, if it is numbered."""

    type: str
    job_id: str
    seq: int | None
    text: str
    is_last: bool = False


class Listener(Protocol):
    """Somebody who watches jobs."""

    def hear(self, message: Message) -> None:
        """Take *message*; must neither block nor raise."""
        ...


def encode(kind: str, job_id: str, seq: int | None, **body: object) -> str:
    """Return the JSON text of a message."""
    message: dict[str, object] = {"type": kind, "jobId": job_id}
    if seq is not None:
        message["seq"] = seq
    return _encode({**message, **body}).decode()


class Live:
    """What is known of a job that no row holds: bytes received, percent per step.

    `share` is how many percent of an upload have come where its length is not known.
    `moved` is when the percent of a step was last another one, on the loop's clock.
    """

    __slots__ = ("moved", "percent", "share", "uploaded")

    def __init__(self) -> None:
        self.uploaded: int | None = None
        self.share = 0.0
        self.percent: dict[str, float] = {}
        self.moved: dict[str, float] = {}


async def _nobody_knows(_job: str) -> float | None:
    return None


class Hub:
    """Listeners, live values and shared snapshots of jobs.

    *load* reads a job's row; *left_s* tells how long its steps should still take, None
    if nobody knows; *url_prefix* is put before `/jobs/…` in download URLs.
    """

    def __init__(
        self,
        load: Callable[[str], Awaitable[JobView]],
        left_s: Callable[[str], Awaitable[float | None]] = _nobody_knows,
        *,
        url_prefix: str = "",
    ) -> None:
        self._load = load
        self._left_s = left_s
        self._prefix = url_prefix
        self._listeners: dict[str, set[Listener]] = {}
        self._live: dict[str, Live] = {}
        #: jobs whose progress is to be told at the next tick, and in this one
        self._dirty: set[str] = set()
        self._due: deque[str] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._views: OrderedDict[str, JobView] = OrderedDict()
        self._versions: OrderedDict[str, int] = OrderedDict()
        self._loading: dict[str, asyncio.Task[JobView]] = {}
        #: job -> messages for more listeners than are told at once
        self._crowds: dict[str, deque[Message]] = {}
        self._telling: set[asyncio.Task[None]] = set()

    # ----- listeners

    def join(self, job_id: str, listener: Listener) -> None:
        """Tell *listener* about *job_id* from now on."""
        self._listeners.setdefault(job_id, set()).add(listener)

    def leave(self, job_id: str, listener: Listener) -> None:
        """Stop telling *listener*; leaving twice is not an error."""
        heard = self._listeners.get(job_id)
        if heard is not None:
            heard.discard(listener)
            if not heard:
                del self._listeners[job_id]

    def tell(self, message: Message) -> None:
        """Pass *message* on to who listens to its job."""
        job = message.job_id
        listeners = self._listeners.get(job, ())
        waiting = self._crowds.get(job)
        if waiting is not None:
            if waiting and waiting[-1].type == message.type == "progress":
                waiting.pop()  # the newest wins
            waiting.append(message)
        elif len(listeners) > AT_ONCE:
            self._crowds[job] = deque([message])
            self._own(self._tell_crowd(job, self._crowds[job]))
        else:
            for listener in tuple(listeners):
                listener.hear(message)

    async def _tell_crowd(self, job: str, waiting: deque[Message]) -> None:
        """Tell very many listeners, in turns with everything else that is to be done.

        Who joins meanwhile has read a snapshot that holds what is still being told.
        """
        try:
            while waiting:
                message = waiting.popleft()
                everybody = tuple(self._listeners.get(job, ()))
                for start in range(0, len(everybody), AT_ONCE):
                    for listener in everybody[start : start + AT_ONCE]:
                        listener.hear(message)
                    await asyncio.sleep(0)
        finally:
            del self._crowds[job]

    def _own(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    # ----- what happens

    def changed(self, change: Change) -> None:
        """Take a committed change; called in commit order."""
        job = change.job_id
        self._forget(job, change.version)
        for step in change.steps:
            if step.status is not StepState.RUNNING and job in self._live:
                self._live[job].percent.pop(step.name, None)
                self._live[job].moved.pop(step.name, None)
        if change.state is not JobState.UPLOADING and job in self._live:
            self._live[job].uploaded = None
        if change.terminal is not None or change.gone:
            self._live.pop(job, None)
        if job not in self._listeners:
            return
        for step in change.steps:
            text = encode("step", job, change.version, status=change.state, step=step)
            self.tell(Message(type="step", job_id=job, seq=change.version, text=text))
        if change.gone:
            text = encode("job.deleted", job, change.version)
            self.tell(
                Message(
                    type="job.deleted",
                    job_id=job,
                    seq=change.version,
                    text=text,
                    is_last=True,
                )
            )
        elif change.terminal is not None:
            self._own(self._tell_end(job, change.terminal, change.state))

    async def _tell_end(self, job: str, kind: str, state: JobState) -> None:
        try:
            view = await self.snapshot(job)
        except AsyncflowError as error:
            # The watcher's next reconnect reads the same snapshot.
            log.warning("progress.end_not_told", job=job, error=str(error))
            return
        if view.status is not state:
            return  # a retry was faster: its run has an end of its own
        text = encode(kind, job, view.version, job=view)
        self.tell(
            Message(type=kind, job_id=job, seq=view.version, text=text, is_last=True)
        )

    def doubt(self) -> None:
        """Drop every snapshot: a commit's outcome is not known."""
        self._views.clear()
        self._versions.clear()
        self._loading.clear()

    def _forget(self, job: str, version: int) -> None:
        self._views.pop(job, None)
        self._loading.pop(job, None)
        self._versions[job] = version
        self._versions.move_to_end(job)
        if len(self._versions) > 4 * SNAPSHOTS_KEPT:
            self._versions.popitem(last=False)

    # ----- live values

    def uploading(self, job: str, offset: int, share: float = 0.0) -> None:
        """Note how many bytes of an upload have arrived.

        *share*: how many of a hundred, where nobody knows its length.
        """
        live = self._live_of(job)
        live.uploaded, live.share = offset, share
        self._soon(job)

    def upload_idle(self, job: str) -> None:
        """Forget an upload that no request is filling; its blob knows its size."""
        self._drop_live(job)

    def running(self, job: str, step: str, percent: float) -> None:
        """Note how far a running step is, 0 to 100; it never goes back."""
        live = self._live_of(job)
        known, now = live.percent.get(step, 0.0), min(100.0, round(percent, 1))
        live.percent[step] = max(known, now)
        if now > known:
            live.moved[step] = asyncio.get_running_loop().time()
        self._soon(job)

    def over(self, job: str, step: str) -> None:
        """Forget how far a step was: its attempt is over, be it that of a replay."""
        live = self._live.get(job)
        if live is not None:
            live.percent.pop(step, None)
            live.moved.pop(step, None)
            if not live.percent and live.uploaded is None:
                del self._live[job]

    def percent(self, job: str, step: str) -> float:
        """Return how far a running step has said it is, 0 to 100."""
        live = self._live.get(job)
        return 0.0 if live is None else live.percent.get(step, 0.0)

    def still_s(self, job: str, step: str) -> float:
        """Return for how long a running step has not said anything new."""
        live = self._live.get(job)
        moved = None if live is None else live.moved.get(step)
        return 0.0 if moved is None else asyncio.get_running_loop().time() - moved

    def _live_of(self, job: str) -> Live:
        live = self._live.get(job)
        if live is None:
            live = self._live[job] = Live()
        return live

    def _drop_live(self, job: str) -> None:
        live = self._live.get(job)
        if live is not None:
            live.uploaded = None
            if not live.percent:
                del self._live[job]

    def _soon(self, job: str) -> None:
        if job not in self._listeners:
            return
        self._dirty.add(job)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(PROGRESS_EVERY_S, self._tell_dirty)

    def _tell_dirty(self) -> None:
        """Tell what has moved: all jobs share one timer, and go in turns if many."""
        loop = asyncio.get_running_loop()
        if not self._due:
            self._due.extend(self._dirty)
            self._dirty.clear()
        for _ in range(min(AT_ONCE, len(self._due))):
            self._tell_live(self._due.popleft())
        if self._due:
            self._timer = loop.call_later(0, self._tell_dirty)
        elif self._dirty:
            self._timer = loop.call_later(PROGRESS_EVERY_S, self._tell_dirty)
        else:
            self._timer = None

    def _tell_live(self, job: str) -> None:
        live = self._live.get(job)
        if live is None or job not in self._listeners:
            return
        if live.uploaded is None:
            self._own(self._tell_steps(job))
        else:
            self._tell_progress(job, live)

    async def _tell_steps(self, job: str) -> None:
        try:
            left_s = await self._left_s(job)
        except AsyncflowError:
            left_s = None  # the database does not answer
        live = self._live.get(job)
        # else it has ended meanwhile
        if live is not None:
            self._tell_progress(job, live, estimatedTimeRemaining=left_s)

    def _tell_progress(self, job: str, live: Live, **more: float | None) -> None:
        text = encode(
            "progress",
            job,
            None,
            uploadedBytes=live.uploaded,
            steps=live.percent,
            **more,
        )
        self.tell(Message(type="progress", job_id=job, seq=None, text=text))

    # ----- snapshots

    async def snapshot(self, job: str) -> JobView:
        """Return the job as it is now; concurrent callers share one read.

        Raises:
            JobNotFound: no job has this id.
        """
        view = self._views.get(job)
        if view is None:
            view = await self._read(job)
        return self._with_live(view)

    async def _read(self, job: str) -> JobView:
        task = self._loading.get(job)
        if task is None:
            task = asyncio.create_task(self._fetch(job))
            self._loading[job] = task
            task.add_done_callback(lambda t: self._fetched(job, t))
        return await asyncio.shield(task)

    async def _fetch(self, job: str) -> JobView:
        return self._with_urls(await self._load(job))

    def _fetched(self, job: str, task: asyncio.Task[JobView]) -> None:
        if self._loading.get(job) is task:
            del self._loading[job]
        if task.cancelled() or task.exception() is not None:
            return
        view = task.result()
        # A change may have overtaken the read: an older view is not kept.
        if view.version >= self._versions.get(job, 0):
            self._views[job] = view
            if len(self._views) > SNAPSHOTS_KEPT:
                self._views.popitem(last=False)

    def _with_urls(self, view: JobView) -> JobView:
        if not view.accepted:
            return view
        base = f"{self._prefix}/jobs/{view.job_id}/files"
        has_original = view.kind is JobKind.FILE and view.original_kept
        whole = ["original"] if has_original else []
        names = [*whole, *(made.name for made in view.files)]
        keys: dict[str, dict[str, str]] = {}
        for made in view.files:
            keys.setdefault(made.step, {})[made.name] = made.key
        return msgspec.structs.replace(
            view,
            download_urls={name: f"{base}/{name}" for name in names},
            processed_files=keys,
        )

    def _with_live(self, view: JobView) -> JobView:
        live = self._live.get(view.job_id)
        if live is None:
            return view
        if view.status is JobState.UPLOADING:
            if live.uploaded is None:
                return view
            return self.with_uploaded(view, live.uploaded, live.share)
        steps = tuple(
            msgspec.structs.replace(s, progress=live.percent.get(s.name, s.progress))
            if s.status is StepState.RUNNING
            else s
            for s in view.steps
        )
        return msgspec.structs.replace(
            view, steps=steps, progress=views.share_done(steps)
        )

    @staticmethod
    def with_uploaded(view: JobView, offset: int, share: float = 0.0) -> JobView:
        """Return an UPLOADING job with how many bytes have arrived.

        *share*: how many of a hundred, where nobody knows its length.
        """
        if view.file_size:
            share = 100.0 * offset / view.file_size
        return msgspec.structs.replace(
            view, uploaded_bytes=offset, progress=round(share, 1)
        )

    async def close(self) -> None:
        """Stop timers and tell what is still to be told."""
        if self._timer is not None:
            self._timer.cancel()
        if self._telling:
            await asyncio.wait(self._telling, timeout=1.0)
