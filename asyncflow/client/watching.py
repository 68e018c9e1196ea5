"""Follows a job to its end: by WebSocket, by polling where that cannot connect.

Theory of operation
-------------------
Every connection begins with a snapshot, so a reconnect misses nothing. A socket that
cannot be opened (an old proxy in between, a full server) is no reason to give up: then
the status is asked for again and again, with growing pauses while nothing changes.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp
import msgspec

from asyncflow.client.failures import ServerUnreachable
from asyncflow.client.messages import Frame, Job, Step, Update, ending
from asyncflow.client.session import Session, as_unreachable, decode

_HEARTBEAT_S = 20.0
# a human's idea of "live" at first, then gentle with the server
_FIRST_POLL_S = 0.2
_SLOWEST_POLL_S = 2.0
# a snapshot with every step and address of a job stays far below this
_MAX_FRAME_BYTES = 4 << 20
# sockets that break at once this often in a row: something in between is against them
_BROKEN_SOCKETS = 3


class _SocketRefusedError(Exception):
    """No WebSocket can be had here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """One job of one server being followed."""

    session: Session
    job_id: str

    async def updates(self) -> AsyncIterator[Update]:
        """Yield a snapshot, then every change, and last how the job ended.

        Raise ServerRefused if there is no such job, ServerUnreachable if the server
        stays away for longer than the session's patience.
        """
        await self._status()
        broken = 0
        while broken < _BROKEN_SOCKETS:
            broken += 1
            try:
                async for update in self._listen():
                    broken = 0
                    yield update
                    if update.job.is_final:
                        return
            except _SocketRefusedError:
                break
            except ServerUnreachable:
                # asks with the session's patience, so this waits for a restart
                await self._status()
        async for update in self._poll():
            yield update

    async def _status(self) -> Job:
        reference = f"status/{quote(self.job_id, safe='')}"
        return await self.session.fetch("GET", reference, Job)

    async def _listen(self) -> AsyncIterator[Update]:
        url = self.session.resolve("ws").with_query(job=self.job_id)
        with as_unreachable(self.session.address):
            try:
                socket = await self.session.http.ws_connect(
                    url,
                    headers=self.session.headers_for(url),
                    heartbeat=_HEARTBEAT_S,
                    max_msg_size=_MAX_FRAME_BYTES,
                )
            except aiohttp.WSServerHandshakeError as error:
                raise _SocketRefusedError from error
            async with socket:
                job: Job | None = None
                async for message in socket:
                    if message.type is not aiohttp.WSMsgType.TEXT:
                        return
                    frame = decode(message.data, Frame, str(url))
                    if frame.job_id not in {None, self.job_id}:
                        continue
                    job = after(job, frame)
                    if job is not None:
                        yield Update(type=frame.type, job=job, offset=frame.offset)

    async def _poll(self) -> AsyncIterator[Update]:
        pause = _FIRST_POLL_S
        seen: Job | None = None
        while True:
            job = await self._status()
            if job != seen:
                pause = _FIRST_POLL_S
                yield Update(type=_kind(seen, job), job=job)
            if job.is_final:
                return
            seen = job
            await asyncio.sleep(pause)
            pause = min(_SLOWEST_POLL_S, pause * 1.5)


def _kind(seen: Job | None, job: Job) -> str:
    if job.is_final:
        return ending(job)
    return "snapshot" if seen is None else "step"


def after(job: Job | None, frame: Frame) -> Job | None:
    """Return *job* as it is after *frame*; None until there was a snapshot."""
    if frame.job is not None:
        return frame.job
    if job is None:
        return None
    if isinstance(frame.step, Step):
        return msgspec.structs.replace(job, steps=_with(job.steps, frame.step))
    if isinstance(frame.step, str) and frame.progress is not None:
        steps = tuple(
            msgspec.structs.replace(step, progress=frame.progress)
            if step.name == frame.step
            else step
            for step in job.steps
        )
        return msgspec.structs.replace(job, steps=steps)
    return job


def _with(steps: tuple[Step, ...], new: Step) -> tuple[Step, ...]:
    if all(step.name != new.name for step in steps):
        return (*steps, new)
    return tuple(new if step.name == new.name else step for step in steps)
