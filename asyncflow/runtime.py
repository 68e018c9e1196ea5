"""Builds the parts and ties them together: the only place that picks a backend.

`await runtime.start()` gives a working engine room without any HTTP; `server` puts the
routes in front of it.
"""

import asyncio
import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import msgspec
import structlog

from asyncflow import chains, pipelines
from asyncflow.admission import Admission, Rules
from asyncflow.agreement import Ask
from asyncflow.broker.memory import LocalDoorbell
from asyncflow.chance import Clock
from asyncflow.chunks import Chunks
from asyncflow.config import Settings
from asyncflow.db.sqlite import SqliteDatabase
from asyncflow.dispatch import Dispatchers
from asyncflow.engine import Engine
from asyncflow.errors import (
    DatabaseUnavailable,
    DataDirInUse,
    DiskFull,
    JobNotFound,
    StartError,
    UploadNotFound,
)
from asyncflow.estimates import left_s, pages_of
from asyncflow.gauges import Check, Gauges
from asyncflow.greetings import default_modules
from asyncflow.janitor import Chore, Janitor
from asyncflow.jobs import JobKind, JobState, Limits, StepState, Subscription
from asyncflow.joining import Joiner
from asyncflow.metrics import Metrics
from asyncflow.pipelines import Pipelines
from asyncflow.pool import Pool, default_size
from asyncflow.processors import ocr
from asyncflow.progress import Hub
from asyncflow.recovery import Recovery
from asyncflow.retention import Retention
from asyncflow.store.base import HasSpace, Space, Store
from asyncflow.store.local import LocalStore
from asyncflow.views import JobView, StepView, moment, waiting
from asyncflow.workplaces import Workplaces

if TYPE_CHECKING:
    from asyncflow.handlers import Stray
    from asyncflow.pace import Restraint

log = structlog.get_logger(__name__)

DATABASE = "asyncflow.db"
STORE = "store"
LOCK = "lock"
#: how often alerts are judged
ALERTS_EVERY_S = 5.0
#: how often the bytes of all tenants are read
USAGE_EVERY_S = 1.0
#: how often counters and lanes that stand still are dropped
IDLE_EVERY_S = 60.0
#: how often old originals and jobs are looked for
RETAIN_EVERY_S = 10.0
_NOT_BEGUN = "the server waits for the database to begin its work"
#: how often a server that could not write at its start tries again
BEGIN_EVERY_S = 1.0
#: how long a WebSocket's client may take to hear that the server stops
GOODBYE_S = 2.0


class Socket(Protocol):
    """An open WebSocket or event stream, as far as stopping the server concerns it."""

    async def close(self, *, code: int, message: bytes) -> object:
        """Say goodbye with a code of RFC 6455 section 7.4."""
        ...


class FolderLock:
    """Keeps a second server off a data folder; the kernel drops it with the process."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._fd: int | None = None

    def take(self) -> None:
        """Take the lock. Raise DataDirInUse if somebody holds it."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise DataDirInUse(
                f"another asyncflow (process {owner}) uses {self._path.parent}: "
                "stop it, or choose another folder with --data-dir"
            ) from None
        with contextlib.suppress(OSError):  # a full disk: only the refusal tells less
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; doing it twice is not an error."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Runtime:
    """One server's parts, started and stopped in the right order.

    *url_prefix* stands before every path that this server answers.
    """

    def __init__(
        self, settings: Settings, *, url_prefix: str = "", clock: Clock | None = None
    ) -> None:
        self.settings = settings
        self.url_prefix = url_prefix
        public = urlsplit(settings.public_url or "").path.rstrip("/")
        #: what stands before a path where clients see it: a proxy may take it off
        self.public_path = public or url_prefix
        self.metrics = Metrics()
        clock = clock or Clock()
        self.draining = False
        #: open WebSockets and event streams
        self.sockets: set[Socket] = set()
        folder = settings.data_dir
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = FolderLock(folder)
        self._limits = Limits(attempts=settings.attempts)
        self._pipelines = _pipelines(settings)
        self._unreadable: str | None = None
        self.engine = self._engine(clock)
        self.db = SqliteDatabase(
            folder / DATABASE,
            on_change=self.engine.changed,
            on_doubt=self.engine.doubt,
            # the gauges are made after the database
            on_batch=lambda batch: self.gauges.batch(batch),  # noqa: PLW0108
        )
        self.hub = Hub(self.db.job, self._remaining_s, url_prefix=self.public_path)
        self.engine.attach(self.db, self.hub)
        self.store: Store = LocalStore(folder / STORE)
        self.pool = self._new_pool()
        self.gauges = self._gauges()
        self.admission = self._admission()
        self.chunks = Chunks(
            db=self.db,
            engine=self.engine,
            store=self.store,
            admission=self.admission,
            expiry_s=settings.upload_expiry,
        )
        self.joiner = self._joiner()
        self.chunks.lookup.legacy = self.recovery = self._recovery()
        self.janitor = Janitor(
            db=self.db,
            engine=self.engine,
            store=self.store,
            chunks=self.chunks,
            recovery=self.recovery,
        )
        self.dispatchers = Dispatchers(self.engine)
        #: what holds back each consumer that works here
        self.restraints: dict[str, Restraint] = {}
        #: functions on the loop that do not stop when they are told to
        self.strays: Callable[[], tuple[Stray, ...]] = tuple
        self._has_begun = False
        self._watch: asyncio.Task[None] | None = None

    def _engine(self, clock: Clock) -> Engine:
        engine = Engine(
            doorbell=LocalDoorbell(),
            clock=clock,
            limits=self._limits,
            worker=f"{socket.gethostname()}:{os.getpid()}",
            node=self.settings.node,
            lease_s=self.settings.lease,
            backlog_limit=self.settings.backlog_limit,
        )
        engine.pipelines = self._pipelines
        engine.tenant_limit = self.settings.tenant_running or sys.maxsize
        return engine

    def _joiner(self) -> Joiner:
        joiner = Joiner(
            db=self.db,
            engine=self.engine,
            store=self.store,
            admission=self.admission,
            chunks=self.chunks,
        )
        self.chunks.endings.on_part = joiner.part_done
        self.chunks.endings.on_end = joiner.part_gone
        return joiner

    def _recovery(self) -> Recovery:
        settings = self.settings
        has_quotas = bool(settings.quota_bytes or settings.tenant_quota_bytes)
        return Recovery(
            db=self.db,
            chunks=self.chunks,
            joiner=self.joiner,
            counting=self.admission if has_quotas else None,
        )

    def _gauges(self) -> Gauges:
        return Gauges(
            metrics=self.metrics,
            engine=self.engine,
            db=self.db,
            wal=self.db,
            pool=self.pool,
            fill_level=self.settings.fill_level,
            space=_space_of(self.store),
            trouble=lambda: self.trouble,
            checks=self.checks(),
            sockets=lambda: len(self.sockets),
            strays=lambda: len(self.strays()),
            failing_joins=lambda: self.joiner.failing,
            stuck_keys=lambda: self.janitor.stuck,
        )

    def _admission(self) -> Admission:
        settings = self.settings
        rules = Rules(
            max_bytes=settings.max_upload_bytes,
            allowed_types=settings.allowed_types,
            fill_level=settings.fill_level,
            open_uploads=settings.open_uploads,
            quota_bytes=settings.quota_bytes or sys.maxsize,
            tenant_quota_bytes=settings.tenant_quota_bytes or sys.maxsize,
        )
        return Admission(
            rules,
            space=_space_of(self.store),
            backlog=self.engine.waiting,
            delayed=self.engine.delayed,
            usage=self.db.usage_of,
            open_uploads=self.db.open_uploads_of,
            on_refusal=self.metrics.uploads_refused.inc,
        )

    def _options(self) -> Mapping[str, Mapping[str, object]]:
        settings = self.settings
        return {
            "identify": {
                "maxPixels": settings.max_pixels,
                "maxPages": settings.max_pages,
            },
            "image": {"maxPixels": settings.max_pixels},
            "text": {
                "maxPages": settings.max_pages,
                "engine": settings.text_engine,
                "languages": settings.text_languages,
                "images": settings.text_images,
            },
        }

    def missing_tool(self, consumer: str) -> str | None:
        """Return what must be installed before a consumer of the pool can work."""
        card = self.pool.processors.get(consumer)
        missing = None if card is None else card.missing
        if missing is None and consumer == "text":
            # workers know what is installed, and not which languages are wanted
            return self._unreadable
        return missing

    def _new_pool(self) -> Pool:
        settings, options = self.settings, self._options()
        return Pool(
            size=settings.workers or default_size(),
            least=settings.workers_min,
            folder=settings.data_dir / "slots",
            private=settings.private,
            modules=(*default_modules(), *settings.processors),
            slot_memory_bytes=settings.slot_memory_bytes or None,
            fill_level=settings.fill_level,
            max_runs=settings.worker_runs,
            load_s=settings.load_timeout,
            asks=tuple(
                Ask(path=at, processor=name, options={**options.get(name, {}), **said})
                for at, name, said in pipelines.asks(self._pipelines)
            ),
        )

    # ----- start and stop

    async def start(self) -> None:
        """Start every part; on the main thread, since workers are started from here.

        Raises:
            DataDirInUse, DatabaseTooNew, StartError: it cannot run like this.
        """
        self._lock.take()
        try:
            settings = self.settings
            self._unreadable = await asyncio.to_thread(
                ocr.missing, settings.text_engine, settings.text_languages
            )
            await self._start_parts()
            await self._start_work()
        except BaseException:
            await self.close()
            raise

    async def _start_parts(self) -> None:
        """Start the database and the workers; whichever fails, the other one ends too.

        A database that was closed while it opens would keep threads for ever.
        """
        parts = [asyncio.create_task(one.start()) for one in (self.db, self.pool)]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            if not all(one.done() for one in parts):
                self.pool.give_up()
            await asyncio.gather(*parts, return_exceptions=True)
        for one in parts:
            one.result()

    async def _start_work(self) -> None:
        places = Workplaces(
            engine=self.engine,
            pool=self.pool,
            store=self.store,
            said=self._pipelines,
            attempts=self._limits.attempts,
            options=self._options(),
            wall_s={"image": self.settings.wall_image},
            admission=self.admission,
            scratch=self.settings.data_dir,
            load_s=self.settings.load_timeout,
        )
        consumers = places.subscriptions()
        cards = self.pool.processors.values()
        known = await self.db.registry(self.settings.node)
        elsewhere = [one.subscription for one in known if not one.is_here]
        where = {card.name: card.where for card in cards}
        self._check(consumers, where, elsewhere)
        self.restraints = {card.name: places.restraint(card) for card in cards}
        self.dispatchers.add(*places.dispatchers())
        self.strays = places.strays
        await self.gauges.recall()
        self.engine.on_attempt = self.gauges.attempt
        self.engine.listeners += [
            self.dispatchers.changed,
            self.chunks.changed,
            self.joiner.changed,
            self.janitor.changed,
            self.gauges.changed,
        ]
        await self._begin(consumers)
        await self.janitor.start(*self._chores(partial(self._begin, consumers)))
        self._watch = asyncio.create_task(self.gauges.watch_loop(), name="loop-lag")

    def _check(
        self,
        consumers: Sequence[Subscription],
        where: Mapping[str, str],
        elsewhere: Sequence[Subscription],
    ) -> None:
        """Raise StartError for functions or pipelines that wait for what cannot be."""
        problems = list(chains.problems(consumers, where, elsewhere))
        if problems:
            raise StartError("\n".join(problems))
        known = (*elsewhere, *consumers)
        for name, kind in chains.unheard(consumers, elsewhere):
            log.warning("consumer.of_no_step", consumer=name, on=kind)
        if self.settings.pipelines is not None:
            path = str(self.settings.pipelines)
            pipelines.check(self._pipelines, known, path, self.pool.wrong)

    def _chores(self, begin: Callable[[], Awaitable[None]]) -> tuple[Chore, ...]:
        settings, quotas = self.settings, self.admission.quotas
        retention = Retention(
            db=self.db,
            engine=self.engine,
            store=self.store,
            originals_s=settings.keep_originals or None,
            jobs_s=settings.keep_jobs or None,
        )
        return (
            Chore(name="begin", every_s=BEGIN_EVERY_S, do=begin),
            Chore(name="usage", every_s=USAGE_EVERY_S, do=quotas.refresh),
            Chore(name="alerts", every_s=ALERTS_EVERY_S, do=self.gauges.judge),
            Chore(name="idle", every_s=IDLE_EVERY_S, do=self.db.forget_idle),
            Chore(name="room", every_s=IDLE_EVERY_S, do=self.db.keep_room),
            Chore(name="retention", every_s=RETAIN_EVERY_S, do=retention.remove_old),
            Chore(name="sweep", every_s=settings.sweep_every, do=retention.sweep),
        )

    async def _begin(self, consumers: Sequence[Subscription]) -> None:
        """Take up what a dead server left, and begin to work; later, if not now.

        While the database cannot write, everything that only reads works.

        Raises:
            StartError: it cannot write and never has: there is nothing to read.
        """
        if self._has_begun or self.draining:
            return
        try:
            await self.recovery.look()
            freed = await self.engine.start(consumers)
        except (DatabaseUnavailable, DiskFull) as error:
            if not self.engine.subscriptions:
                raise StartError(error.detail) from error
            log.warning("server.not_begun", error=error.detail)
            return
        await self.admission.quotas.refresh()
        if freed:
            log.info("server.recovered", steps=freed)
        self.recovery.begin()
        await self.dispatchers.start()
        self._has_begun = True

    def checks(self) -> Mapping[str, Check]:
        """Return the conditions of being ready.

        Each says what is wrong, as a string or an error of ours, or returns None.
        """

        async def accepting() -> str | None:
            return "the server stops" if self.draining else None

        async def database() -> str | None:
            return self.db.trouble

        async def recovery() -> str | None:
            return None if self._has_begun else _NOT_BEGUN

        async def disk() -> str | None:
            await self.admission.check_room()
            return None

        async def workers() -> str | None:
            return self.pool.trouble

        found = (accepting, database, recovery, disk, workers)
        return {one.__name__: one for one in found}

    @property
    def trouble(self) -> str | None:
        """Say why nothing can be stored or worked on just now; None: it can."""
        if self.db.trouble is None and not self._has_begun:
            return _NOT_BEGUN
        return self.db.trouble

    async def drain(self, grace_s: float) -> None:
        """Take nothing new; let uploads and steps end within *grace_s*."""
        self.draining = self.admission.closed = True
        await asyncio.gather(
            self.chunks.drain(grace_s),
            self.dispatchers.drain(grace_s),
        )
        await asyncio.gather(*(_say_goodbye(one) for one in tuple(self.sockets)))

    async def close(self) -> None:
        """Stop every part; what runs now is released for the next start."""
        if self._watch is not None:
            self._watch.cancel()
        await self.janitor.stop()
        await self.dispatchers.stop()
        await self.recovery.stop()
        await self.joiner.stop()
        await self.pool.close()
        await self.hub.close()
        await self.db.close()
        await self.store.close()
        self._lock.release()

    # ----- what routes ask

    async def status(self, job_id: str) -> JobView:
        """Return a job as it is now, with what only the running server knows.

        Raises:
            JobNotFound: no job has this id.
        """
        view = await self.hub.snapshot(job_id)
        if (why := self.joiner.why(job_id)) is not None:
            view = msgspec.structs.replace(view, error=why)
        if view.status is JobState.UPLOADING and view.uploaded_bytes is None:
            try:
                row = await self.db.find_upload(job_id)
            except UploadNotFound:
                raise JobNotFound from None
            return self.hub.with_uploaded(
                view, *await self.joiner.gathering.arrived(row)
            )
        steps = (*view.steps, *self._to_come(view))
        left = [step for step in steps if not step.status.is_final]
        to_begin = [one.name for one in left if one.status is not StepState.RUNNING]
        if not left or await self._is_held(job_id, to_begin):
            return view.with_estimate(None)
        return view.with_estimate(self._left_s(view, left))

    async def _remaining_s(self, job_id: str) -> float | None:
        return (await self.status(job_id)).estimated_time_remaining

    def _to_come(self, view: JobView) -> tuple[StepView, ...]:
        """Return the steps that a file will have if it is what it says it is."""
        is_identified = view.processing_type is not None
        if view.kind is not JobKind.FILE or is_identified or view.status.is_final:
            return ()
        plan = self.engine.plan(view.media_type or "application/octet-stream")
        return waiting(plan, {step.name for step in view.steps})

    async def _is_held(self, job_id: str, consumers: Sequence[str]) -> bool:
        """Tell whether somebody has to act before all of *consumers* can begin."""
        engine = self.engine
        if not consumers:
            return False
        if engine.is_held(consumers):
            return True
        tenants = engine.paused.tenants
        return bool(tenants) and (await self.db.owner(job_id)).tenant in tenants

    def _left_s(self, view: JobView, left: Sequence[StepView]) -> float | None:
        """Return how long the steps *left* should still take; None: nobody knows."""
        size, pages = view.file_size or 0, pages_of(view.facts)
        now = self.engine.clock.now()
        total = 0.0
        for step in left:
            mean = self.engine.estimates.mean_s(step.name, size, pages)
            if mean is None:
                return None
            is_running = step.status is StepState.RUNNING
            began = moment(step.started_at) if is_running else None
            total += left_s(
                mean,
                percent=step.progress,
                ran_s=0.0 if began is None else (now - began) / 1000,
                still_s=self.hub.still_s(view.job_id, step.name),
            )
        if view.status is JobState.PENDING:
            total += self.engine.queue_s(self.pool.size)
        return total

    def estimate_s(self, media_type: str, size: int) -> float | None:
        """Return how long a new file should take; None: nobody knows."""
        found = self.engine.estimate_s(media_type, size, self.pool.size)
        return None if found is None else round(found, 3)

    async def free_bytes(self) -> int | None:
        """Return the room under the store; None: it cannot fill up."""
        space = _space_of(self.store)
        return None if space is None else (await space()).free_bytes


def _pipelines(settings: Settings) -> Pipelines:
    """Read the file of pipelines, if there is one."""
    path = settings.pipelines
    if path is None:
        return Pipelines()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as bad:
        raise StartError(f"pipelines: {path} cannot be read: {bad}") from None
    return pipelines.parse(text, str(path))


async def _say_goodbye(socket_: Socket) -> None:
    """Close a socket; one whose client reads nothing holds nobody up for long."""
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(GOODBYE_S):
            await socket_.close(code=1001, message=b"the server stops")


def _space_of(store: Store) -> Callable[[], Awaitable[Space]] | None:
    """Return how to ask for the room under *store*; None: it cannot fill up."""
    return store.space if isinstance(store, HasSpace) else None
