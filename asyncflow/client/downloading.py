"""Downloads one file of a job: continues where it broke, appears only when whole."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import aiohttp

from asyncflow.client.failures import ServerRefused, UnexpectedAnswer
from asyncflow.client.part import Part
from asyncflow.client.session import Session

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_PARTIAL = 206
_RANGE_PAST_END = 416
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,15})-[0-9]{1,15}/([0-9]{1,15})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One file of a job on its way to a local path."""

    session: Session
    reference: str
    target: Path

    async def run(self) -> Path:
        """Fetch the file and put it in place. Raise RequestFailed or OSError."""
        async with _taken(Part(self.target)) as part:
            while not await self._advance(part):
                pass
            await _in_thread(part.publish)
        return self.target

    async def _advance(self, part: Part) -> bool:
        """Get some bytes more; tell whether that was all of them."""
        before = await _in_thread(part.held)

        async def once(attempt: int) -> bool:
            if attempt > 1 and await _in_thread(part.held) > before:
                return False
            await self._fetch(part)
            return True

        try:
            return await self.session.patience.insist(once)
        except ServerRefused as refusal:
            if refusal.status != _RANGE_PAST_END or before == 0:
                raise
            # what lies there is longer than the file: it is no part of it
            await _in_thread(part.cut, 0, "")
            return False

    async def _fetch(self, part: Part) -> None:
        held = await _in_thread(part.held)
        headers = {"Accept-Encoding": "identity"}
        if held:
            tag = await _in_thread(part.tag)
            headers |= {"Range": f"bytes={held}-", "If-Range": tag}
        async with self.session.request(
            "GET", self.reference, headers=headers
        ) as answer:
            start, size = _extent(answer)
            if start not in {0, held}:
                raise UnexpectedAnswer(str(answer.url), "a range nobody asked for")
            # at once and as it comes: what waits in a buffer when a connection breaks
            # is lost
            first = await answer.content.readany()
            tag = "" if _is_encoded(answer) else answer.headers.get("ETag", "")
            await _in_thread(part.cut, start, tag)
            await _in_thread(part.write, first)
            async for data in answer.content.iter_any():
                await _in_thread(part.write, data)
            await _in_thread(part.sync)
            got = await _in_thread(part.size)
            if size not in {None, got}:
                await _in_thread(part.cut, 0, "")
                what = f"{got} bytes of a file that has {size}"
                raise UnexpectedAnswer(str(answer.url), what)


@asynccontextmanager
async def _taken(part: Part) -> AsyncIterator[Part]:
    try:
        await _in_thread(part.open)
        yield part
    finally:
        await _in_thread(part.close)


async def _in_thread(call: Callable[[*Ts], T], *args: *Ts) -> T:
    """Call in a thread; who is cancelled goes on only when the call has ended.

    Otherwise a part would be closed while a thread still writes to it.
    """
    loop = asyncio.get_running_loop()
    # a future and no task: the end of the loop cancels every task
    running = loop.run_in_executor(None, call, *args)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        running.exception()  # heard: nobody else will ask
        raise


def _extent(answer: aiohttp.ClientResponse) -> tuple[int, int | None]:
    """Return where the answer begins in the file, and the file's size if it says so."""
    if answer.status != _PARTIAL:
        return 0, None if _is_encoded(answer) else answer.content_length
    found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if found is None or _is_encoded(answer):
        raise UnexpectedAnswer(str(answer.url), "206 without Content-Range")
    return int(found[1]), int(found[2])


def _is_encoded(answer: aiohttp.ClientResponse) -> bool:
    """Tell whether somebody has encoded it: then its size and version are not ours."""
    return answer.headers.get("Content-Encoding", "identity") != "identity"
