"""Follows a job to its end: by WebSocket, by polling where that cannot connect.

Theory of operation
-------------------
Every connection begins with a snapshot, so a reconnect misses nothing. Before each
socket the status is asked for, and what it says is told: a job that is over needs no
socket. One that cannot be opened (an old proxy in between, a full server) or that says
nothing, at first or later, is no reason to give up: then the status is asked for again
and again, with growing pauses while nothing changes.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import aiohttp
import msgspec
from yarl import URL

from asyncflow.client.failures import ServerUnreachable
from asyncflow.client.messages import FINAL, Frame, Job, Step, Update, ending
from asyncflow.client.session import Session, as_unreachable, decode, segment

# a human's idea of "live" at first, then gentle with the server
_FIRST_POLL_S = 0.2
_SLOWEST_POLL_S = 2.0
# a snapshot with every step and address of a job stays far below this
_MAX_FRAME_BYTES = 4 << 20
# after these a socket tells no more of the job; asking for its status says why
_TELLS_NO_MORE = frozenset({"job.deleted", "error"})
# a server on the other side of the world speaks within one second; what something in
# between swallows, nobody answers
_FIRST_WORD_S = 5.0
# the server says something every 15 s: a network that has lost three of its words has
# forgotten the connection
_SILENCE_S = 45.0
# a server answers a goodbye at once, and nothing is lost without its answer
_GOODBYE_S = 1.0
# sockets that end without a word this often in a row: something in between is
# against them
_SILENT_SOCKETS = 3


class _SocketRefusedError(Exception):
    """No WebSocket can be had here, or none that goes on speaking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """One job of one server being followed.

    *silence_s*: a socket that says nothing for so long is left.
    """

    session: Session
    job_id: str
    silence_s: float = _SILENCE_S

    async def updates(self) -> AsyncGenerator[Update, None]:
        """Yield a snapshot, then every change, and last how the job ended.

        Raise ServerRefused if there is no such job, ServerUnreachable if the server
        stays away for longer than the session's patience.
        """
        pause, silent = 0.0, 0
        told: Job | None = None
        while silent < _SILENT_SOCKETS:
            await asyncio.sleep(pause)
            pause = min(_SLOWEST_POLL_S, max(_FIRST_POLL_S, 2 * pause))
            silent += 1
            # says if there is no such job; waits, with patience, for a server that left
            job = await self._status()
            if job != told:
                yield Update(type=_kind(told, job), job=job)
                told = job
            if job.is_final:
                return
            try:
                async with aclosing(self._listen()) as heard:
                    async for update in heard:
                        silent = 0
                        # a socket begins with what may be known already
                        if update.job != told:
                            yield update
                            told = update.job
                        if told.is_final:
                            return
            except _SocketRefusedError:
                break
            except ServerUnreachable:
                continue
        async with aclosing(self._poll(told)) as polled:
            async for update in polled:
                yield update

    async def _status(self) -> Job:
        reference = f"status/{segment(self.job_id)}"
        return await self.session.fetch("GET", reference, Job)

    async def _listen(self) -> AsyncGenerator[Update, None]:
        url = self.session.resolve("ws").with_query(job=self.job_id)
        with as_unreachable(self.session.address):
            socket, message = await self._opened(url)
            async with socket:
                job: Job | None = None
                while message.type is aiohttp.WSMsgType.TEXT:
                    frame = decode(message.data, Frame, str(url))
                    # else it says no more than that the server is there
                    if frame.job_id == self.job_id:
                        if frame.type in _TELLS_NO_MORE:
                            return
                        job = after(job, frame)
                        if job is not None:
                            yield Update(type=frame.type, job=job)
                    message = await self._next(socket)

    async def _next(self, socket: aiohttp.ClientWebSocketResponse) -> aiohttp.WSMessage:
        try:
            async with asyncio.timeout(self.silence_s):
                return await socket.receive()
        except TimeoutError as error:
            raise _SocketRefusedError from error

    async def _opened(
        self, url: URL
    ) -> tuple[aiohttp.ClientWebSocketResponse, aiohttp.WSMessage]:
        """Return a socket and the first that it says."""
        try:
            async with asyncio.timeout(_FIRST_WORD_S):
                socket = await self.session.http.ws_connect(
                    url,
                    headers=self.session.headers_for(url),
                    max_msg_size=_MAX_FRAME_BYTES,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_GOODBYE_S),
                )
                try:
                    return socket, await socket.receive()
                except BaseException:
                    await socket.close()
                    raise
        except (aiohttp.WSServerHandshakeError, TimeoutError) as error:
            raise _SocketRefusedError from error

    async def _poll(self, seen: Job | None) -> AsyncGenerator[Update, None]:
        pause = _FIRST_POLL_S
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
    """Return *job* as it is after *frame*; None until there was a snapshot.

    Only a frame that carries the whole job can end it: a last step is told before it.
    """
    if frame.job is not None:
        return frame.job
    if job is None:
        return None
    if frame.step is not None:
        status = job.status if frame.status in FINAL else frame.status
        steps = _with(job.steps, frame.step)
        return msgspec.structs.replace(job, status=status or job.status, steps=steps)
    steps = tuple(
        msgspec.structs.replace(
            step, progress=frame.steps.get(step.name, step.progress)
        )
        for step in job.steps
    )
    left_s = frame.estimated_time_remaining
    return msgspec.structs.replace(
        job,
        steps=steps,
        uploaded_bytes=frame.uploaded_bytes or job.uploaded_bytes,
        estimated_time_remaining=(
            job.estimated_time_remaining if left_s is msgspec.UNSET else left_s
        ),
    )


def _with(steps: tuple[Step, ...], new: Step) -> tuple[Step, ...]:
    if all(step.name != new.name for step in steps):
        return (*steps, new)
    return tuple(new if step.name == new.name else step for step in steps)
