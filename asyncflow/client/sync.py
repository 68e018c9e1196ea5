"""The client for programs without asyncio: the same calls, each waiting for its end.

Theory of operation
-------------------
The asynchronous client runs on an event loop in a thread of its own; a call hands its
coroutine over and waits. So it works beside a loop that the caller's thread may have,
and a Ctrl-C that ends the wait also ends what was waited for. A function that is told
of progress is called by that loop: were it to wait for another call, both would wait
for ever.
"""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from asyncflow.client.api import Client
from asyncflow.client.messages import Consumer, Job, Update
from asyncflow.client.session import IN_USE, Patience
from asyncflow.client.sources import BinaryFile
from asyncflow.client.uploading import CHUNK_BYTES, Progress

T = TypeVar("T")
_NOT_OPEN = "use the client inside `with`"


class SyncClient:
    """A connection to the server at *url*; use it with `with`, in one thread or more.

    The arguments and errors are those of `Client`. Functions that are told of progress
    are called in the client's own thread, and cannot call the client.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        patience: Patience | None = None,
        state_dir: Path | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._client = Client(
            url,
            token,
            patience=patience,
            state_dir=state_dir,
            chunk_bytes=chunk_bytes,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError(IN_USE)
        self._loop = loop = asyncio.new_event_loop()
        # a daemon: a program that forgets to leave the block can still end
        self._thread = threading.Thread(
            target=loop.run_forever, name="asyncflow-client", daemon=True
        )
        self._thread.start()
        self._run(self._client.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._loop is None or self._thread is None:
            return
        self._run(self._client.__aexit__(kind, error, at))
        self._run(self._loop.shutdown_asyncgens())
        self._run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._thread = None

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            work.close()
            raise RuntimeError(_NOT_OPEN)
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError(
                "a function that is told of progress cannot call the client"
            )
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            # a Ctrl-C came while we waited: nobody waits for the rest any more
            future.cancel()
            raise

    def _each(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        loop = self._loop
        try:
            while (item := self._run(_next(items))) is not None:
                yield item
                if self._loop is not loop:
                    raise RuntimeError(_NOT_OPEN)
        finally:
            if self._loop is loop is not None:  # else leaving the block has closed them
                self._run(items.aclose())

    def is_ready(self) -> bool:
        """Tell whether the server that answers takes work now."""
        return self._run(self._client.is_ready())

    def is_known(self) -> bool:
        """Tell whether the server takes our token, or needs none and got none."""
        return self._run(self._client.is_known())

    def address_of(self, reference: str) -> str:
        """Return the whole address of a reference that the server gave."""
        return self._client.address_of(reference)

    def upload(
        self,
        source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryFile,
        *,
        name: str | None = None,
        media_type: str | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        resume: bool = True,
    ) -> str:
        """Upload *source* and return the job's id; see `Client.upload`."""
        told = {} if on_progress is None else {"on_progress": on_progress}
        return self._run(
            self._client.upload(
                source, name=name, media_type=media_type, resume=resume, **told
            )
        )

    def status(self, job_id: str) -> Job:
        """Return the job as it is now."""
        return self._run(self._client.status(job_id))

    def jobs(self, *, state: str | None = None, page: int = 100) -> Iterator[Job]:
        """Yield jobs, newest first, in *state* or in any."""
        return self._each(self._client.jobs(state=state, page=page))

    def watch(self, job_id: str) -> Iterator[Update]:
        """Yield a snapshot of the job, then every change until it ends."""
        return self._each(self._client.watch(job_id))

    def wait(
        self, job_id: str, on_update: Callable[[Update], None] | None = None
    ) -> Job:
        """Return the job when it has ended, however it ended."""
        if on_update is None:
            return self._run(self._client.wait(job_id))
        return self._run(self._client.wait(job_id, on_update))

    def retry(self, job_id: str) -> Job:
        """Run the dead steps of a job again and return the job."""
        return self._run(self._client.retry(job_id))

    def cancel(self, job_id: str) -> Job:
        """Close a job and return it; what succeeded stays."""
        return self._run(self._client.cancel(job_id))

    def submit(
        self,
        name: str,
        payload: object = None,
        *,
        key: str | None = None,
        **more: object,
    ) -> str:
        """Give the server the task called *name*; see `Client.submit`."""
        return self._run(self._client.submit(name, payload, key=key, **more))

    def publish(
        self, kind: str, data: object = None, *, key: str | None = None, **more: object
    ) -> str:
        """Publish an event of type *kind*; see `Client.publish`."""
        return self._run(self._client.publish(kind, data, key=key, **more))

    def result(self, task_id: str) -> object:
        """Return what the function of a task has returned; None until it has."""
        return self._run(self._client.result(task_id))

    def consumers(self) -> tuple[Consumer, ...]:
        """Return how each consumer does; needs the token."""
        return self._run(self._client.consumers())

    def forget(self, consumer: str) -> None:
        """Let the server forget which other nodes have a consumer; needs the token."""
        self._run(self._client.forget(consumer))

    def pause(self, consumer: str, *, on: bool = True) -> None:
        """Let a consumer begin no more steps, or let it go on; needs the token."""
        self._run(self._client.pause(consumer, on=on))

    def pause_tenant(self, tenant: str, *, on: bool = True) -> None:
        """Let no step of a tenant begin, or let them again; `-` is no tenant."""
        self._run(self._client.pause_tenant(tenant, on=on))

    def replay(self, consumer: str, since: datetime) -> int:
        """Give a consumer every event since *since* once more; needs the token."""
        return self._run(self._client.replay(consumer, since))

    def delete(self, job_id: str) -> None:
        """Forget a job with all its bytes."""
        self._run(self._client.delete(job_id))

    def file_name(self, job_id: str, name: str) -> str | None:
        """Return what a browser would call the file *name* of a job; None: unsaid."""
        return self._run(self._client.file_name(job_id, name))

    def download(self, job_id: str, name: str, to: str | os.PathLike[str]) -> Path:
        """Fetch the file called *name* into *to*, which appears only when whole."""
        return self._run(self._client.download(job_id, name, to))


async def _next(items: AsyncGenerator[T, None]) -> T | None:
    return await anext(items, None)
