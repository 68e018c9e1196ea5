"""Uploads one source by tus 1.0 and survives whatever the network does.

Theory of operation
-------------------
Creation reserves the upload and tells its address; it carries a key (Idempotency-Key),
so that one whose answer is lost is found again by repeating it, also by a later process
that remembers the key. Each PATCH appends one chunk. After any break the server is
asked (HEAD) how much it holds, and sending goes on from there: what the server holds is
on stable storage, so nothing is sent twice. Only attempts without any progress are
counted against the patience.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import aiohttp
from yarl import URL

from asyncflow.client.failures import (
    RequestFailed,
    ServerRefused,
    ServerUnreachable,
    SourceChanged,
    UnexpectedAnswer,
)
from asyncflow.client.session import SILENCE_S, Session, as_unreachable
from asyncflow.client.sources import PIECE_BYTES, OpenFile, Source
from asyncflow.client.unfinished import Unfinished, fingerprint

_TUS = {"Tus-Resumable": "1.0.0"}
_JOB_HEADER = "Asyncflow-Job-Id"
# 64 MiB: a proxy that buffers whole requests must hold at most this much
CHUNK_BYTES = 64 << 20
# the caller waits for an error: a server that is slow to forget must not hold it up
_GOODBYE_S = 5.0
# what the server says about this upload and not about us or the moment: continuing
# can never succeed, so the next try begins anew
_ENDS_UPLOAD = frozenset({400, 404, 410, 413, 415, 422})


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an upload is; `resumed_at` is where it continued an earlier one."""

    sent_bytes: int
    total_bytes: int
    resumed_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """An upload on the server: its address, its job, and how much it holds."""

    url: str
    job_id: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Memo:
    """Where one upload is remembered while it is unfinished."""

    unfinished: Unfinished
    key: str
    path: Path


def memo_for(
    session: Session,
    unfinished: Unfinished,
    path: Path,
    source: OpenFile,
    *,
    name: str,
    media_type: str | None,
) -> Memo:
    """Return where the upload of the file at *path* is remembered."""
    key = fingerprint(
        session.address,
        path,
        size=source.size,
        mtime_ns=source.mtime_ns,
        name=name,
        media_type=media_type,
    )
    return Memo(unfinished=unfinished, key=key, path=path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One source on its way to one server."""

    session: Session
    source: Source
    name: str
    media_type: str | None
    memo: Memo | None
    on_progress: Callable[[Progress], None]
    chunk_bytes: int = CHUNK_BYTES

    async def run(self) -> str:
        """Upload what the server does not hold yet and return the job's id.

        Raise ServerRefused, ServerUnreachable, UnexpectedAnswer or SourceChanged.
        """
        place = await self._continue() or await self._create(uuid4().hex)
        try:
            return await self._fill(place)
        except ServerUnreachable:
            raise  # who does not answer cannot be told either
        except BaseException as error:
            if self.memo is None or isinstance(error, SourceChanged):
                # nobody can ever continue it: on the server it would only take room
                self._forget()
                await self._terminate(place.url)
            raise

    async def _fill(self, place: _Place) -> str:
        resumed_at = place.offset
        self._tell(place.offset, resumed_at)
        try:
            while place.offset < self.source.size:
                await self.source.check()
                place = await self._advance(place, resumed_at)
        except ServerRefused as refusal:
            if refusal.status in _ENDS_UPLOAD:
                self._forget()
            raise
        self._forget()
        return place.job_id

    async def _continue(self) -> _Place | None:
        """Find the upload that an earlier process began, if the server still has it."""
        if self.memo is None:
            return None
        known = self.memo.unfinished.find(self.memo.key)
        if known is None:
            return None
        try:
            if not known.upload_url:
                return await self._create(known.once)
            return await self.session.patience.insist(
                lambda _attempt: self._ask(known.upload_url)
            )
        except ServerRefused as refusal:
            if not refusal.is_absence:
                raise
            self._forget()
        return None

    async def _create(self, once: str) -> _Place:
        self._remember(once, "")
        try:
            place = await self.session.patience.insist(
                lambda _attempt: self._ask_for_room(once)
            )
        except ServerUnreachable:
            raise
        except ServerRefused:
            self._forget()
            raise
        except BaseException:
            if self.memo is None:
                await self._take_back(once)
            raise
        self._remember(once, place.url)
        return place

    async def _ask_for_room(self, once: str) -> _Place:
        """Create the upload, or find the one that was created with the key *once*."""
        headers = {
            **_TUS,
            "Idempotency-Key": once,
            "Upload-Length": str(self.source.size),
            "Upload-Metadata": _metadata(self.name, self.media_type),
        }
        async with self.session.request("POST", "files/", headers=headers) as answer:
            return _created(answer, limit=self.source.size)

    async def _take_back(self, once: str) -> None:
        """Remove what was created with the key *once*, whose address nobody knows."""
        with suppress(RequestFailed, TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                place = await self._ask_for_room(once)
                await self._terminate(place.url)

    async def _terminate(self, url: str) -> None:
        with suppress(RequestFailed, TimeoutError):
            async with (
                asyncio.timeout(_GOODBYE_S),
                self.session.request("DELETE", url, headers=_TUS),
            ):
                pass

    async def _ask(self, url: str) -> _Place:
        """Ask how much of the upload at *url* the server holds."""
        async with self.session.request("HEAD", url, headers=_TUS) as answer:
            offset = _offset(answer, limit=self.source.size)
            return _Place(url=url, job_id=_job_id(answer, url), offset=offset)

    async def _advance(self, place: _Place, resumed_at: int) -> _Place:
        """Return only when the server holds more than before."""

        async def once(attempt: int) -> _Place:
            if attempt > 1:
                now = await self._ask(place.url)
                self._tell(now.offset, resumed_at)
                if now.offset > place.offset:
                    return now
            return await self._send(place, resumed_at)

        return await self.session.patience.insist(once)

    async def _send(self, place: _Place, resumed_at: int) -> _Place:
        end = min(place.offset + self.chunk_bytes, self.source.size)
        headers = {
            **_TUS,
            "Upload-Offset": str(place.offset),
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(end - place.offset),
        }
        try:
            with as_unreachable(self.session.address):
                async with asyncio.timeout(SILENCE_S) as guard:
                    body = self._pieces(place.offset, end, resumed_at, guard)
                    async with self.session.request(
                        "PATCH", place.url, headers=headers, data=body
                    ) as answer:
                        offset = _offset(answer, limit=self.source.size)
        except ServerUnreachable as error:
            if changed := _of_source(error):
                raise changed from None
            raise
        self._tell(offset, resumed_at)
        return _Place(url=place.url, job_id=place.job_id, offset=offset)

    async def _pieces(
        self, start: int, end: int, resumed_at: int, guard: asyncio.Timeout
    ) -> AsyncIterator[bytes]:
        clock = asyncio.get_running_loop().time
        for offset in range(start, end, PIECE_BYTES):
            piece = await self.source.read(offset, min(PIECE_BYTES, end - offset))
            if offset + len(piece) == self.source.size:
                # with the last piece the server takes it for whole
                await self.source.check()
            yield piece
            # the network took a piece: silence counts from here
            guard.reschedule(clock() + SILENCE_S)
            self._tell(min(offset + PIECE_BYTES, end), resumed_at)

    def _tell(self, sent: int, resumed_at: int) -> None:
        self.on_progress(
            Progress(
                sent_bytes=sent, total_bytes=self.source.size, resumed_at=resumed_at
            )
        )

    def _remember(self, once: str, url: str) -> None:
        memo = self.memo
        if memo is not None and self.source.size > 0:
            memo.unfinished.remember(memo.key, memo.path, once=once, upload_url=url)

    def _forget(self) -> None:
        if self.memo is not None:
            self.memo.unfinished.forget(self.memo.key)


def _of_source(error: BaseException | None) -> SourceChanged | None:
    """Return what ended the body: aiohttp takes it for a broken connection."""
    while error is not None and not isinstance(error, SourceChanged):
        error = error.__cause__
    return error


def _metadata(name: str, media_type: str | None) -> str:
    values: Mapping[str, str | None] = {"filename": name, "filetype": media_type}
    return ",".join(
        f"{key} {base64.b64encode(value.encode('utf-8', 'replace')).decode()}"
        for key, value in values.items()
        if value
    )


def _created(answer: aiohttp.ClientResponse, *, limit: int) -> _Place:
    location = answer.headers.get("Location")
    if location is None:
        raise UnexpectedAnswer(str(answer.url), "no Location")
    url = str(answer.url.join(URL(location)))
    # an earlier process may have begun to fill what is found again
    offset = _offset(answer, limit=limit)
    return _Place(url=url, job_id=_job_id(answer, url), offset=offset)


def _job_id(answer: aiohttp.ClientResponse, url: str) -> str:
    job_id = answer.headers.get(_JOB_HEADER)
    if not job_id:
        raise UnexpectedAnswer(url, f"no {_JOB_HEADER}")
    return job_id


def _offset(answer: aiohttp.ClientResponse, *, limit: int) -> int:
    text = answer.headers.get("Upload-Offset", "")
    if not (text.isascii() and text.isdecimal()) or int(text) > limit:
        raise UnexpectedAnswer(str(answer.url), f"Upload-Offset {text[:20]!r}")
    return int(text)
