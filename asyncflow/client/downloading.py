"""Downloads one file of a job: continues where it broke, appears only when whole."""

import asyncio
import hashlib
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from asyncflow.client.failures import ServerRefused, UnexpectedAnswer
from asyncflow.client.session import Session
from asyncflow.naming import fitted, longest_in, size_of

_PART, _TAG = ".part", ".part.etag"
_HASH_DIGITS = 16
_PARTIAL = 206
_RANGE_PAST_END = 416
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,15})-[0-9]{1,15}/[0-9]{1,15}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One file of a job on its way to a local path.

    While it is unfinished it lies beside its target as `.part`, with the version it is
    a part of (its ETag) in `.part.etag`; a later download of the same continues it. A
    name too long for that is cut, and told from others by a hash.
    """

    session: Session
    reference: str
    target: Path

    @property
    def _part(self) -> Path:
        return _beside(self.target, _PART)

    @property
    def _tag(self) -> Path:
        return _beside(self.target, _TAG)

    async def run(self) -> Path:
        """Fetch the file and put it in place. Raise RequestFailed or OSError."""
        while not await self._advance():
            pass
        await asyncio.to_thread(self._publish)
        return self.target

    async def _advance(self) -> bool:
        """Get some bytes more; tell whether that was all of them."""
        before = await asyncio.to_thread(self._held)

        async def once(attempt: int) -> bool:
            if attempt > 1 and await asyncio.to_thread(self._held) > before:
                return False
            await self._fetch()
            return True

        try:
            return await self.session.patience.insist(once)
        except ServerRefused as refusal:
            if refusal.status != _RANGE_PAST_END or before == 0:
                raise
            # what lies there is longer than the file: it is no part of it
            await asyncio.to_thread(self._discard)
            return False

    async def _fetch(self) -> None:
        held = await asyncio.to_thread(self._held)
        headers = {"Accept-Encoding": "identity"}
        if held:
            tag = await asyncio.to_thread(self._tag.read_text)
            headers |= {"Range": f"bytes={held}-", "If-Range": tag}
        async with self.session.request(
            "GET", self.reference, headers=headers
        ) as answer:
            start = _start(answer)
            if start not in {0, held}:
                raise UnexpectedAnswer(str(answer.url), "a range nobody asked for")
            # at once and as it comes: what waits in a buffer when a connection breaks
            # is lost
            first = await answer.content.readany()
            await self._store(answer, start, first)

    async def _store(
        self, answer: aiohttp.ClientResponse, start: int, first: bytes
    ) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        place = await asyncio.to_thread(os.open, self._part, flags, 0o600)
        try:
            await asyncio.to_thread(_cut, place, start)
            # after the cut: old bytes must never lie under the tag of a new version
            await asyncio.to_thread(self._note, answer.headers.get("ETag", ""))
            await asyncio.to_thread(_write_all, place, first)
            async for data in answer.content.iter_any():
                await asyncio.to_thread(_write_all, place, data)
            await asyncio.to_thread(os.fsync, place)
        finally:
            os.close(place)

    def _held(self) -> int:
        """Return how many bytes of a known version lie there."""
        try:
            return self._part.stat().st_size if self._tag.read_text() else 0
        except OSError:
            return 0

    def _note(self, tag: str) -> None:
        # a weak ETag does not promise the same bytes: such a part is not continued
        self._tag.write_text("" if tag.startswith("W/") else tag)

    def _discard(self) -> None:
        for path in (self._part, self._tag):
            path.unlink(missing_ok=True)

    def _publish(self) -> None:
        self._part.replace(self.target)
        with suppress(OSError):
            self._tag.unlink(missing_ok=True)


def _beside(target: Path, end: str) -> Path:
    most, name = longest_in(target.parent), target.name
    if size_of(f"{name}{_TAG}") > most:
        told = hashlib.sha256(os.fsencode(name)).hexdigest()[:_HASH_DIGITS]
        name = fitted(name, f"~{told}", most=most - len(_TAG))
    return target.with_name(f"{name}{end}")


def _start(answer: aiohttp.ClientResponse) -> int:
    if answer.status != _PARTIAL:
        return 0
    found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if found is None:
        raise UnexpectedAnswer(str(answer.url), "206 without Content-Range")
    return int(found[1])


def _cut(place: int, length: int) -> None:
    """Keep *length* bytes and go to their end; durable on return."""
    os.ftruncate(place, length)
    os.fsync(place)
    os.lseek(place, length, os.SEEK_SET)


def _write_all(place: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(place, view) :]
