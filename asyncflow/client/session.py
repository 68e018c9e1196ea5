"""One HTTP session with a server: sends requests, turns bad ends into typed errors."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from asyncflow.client.failures import (
    BadAddress,
    BadToken,
    RequestFailed,
    ServerRefused,
    ServerUnreachable,
    UnexpectedAnswer,
)
from asyncflow.client.messages import ProblemDocument

T = TypeVar("T")

# 60 s without a byte in either direction: longer than any disk needs for its last
# write, shorter than TCP's own quarter of an hour
SILENCE_S = 60.0
IN_USE = "the client is in use: leave its block before it is entered again"
_CONNECT_S = 10.0
_MAX_RETRY_AFTER_S = 30.0
_PASSING = frozenset({408, 409, 423, 429, 500, 502, 503, 504})
_FAILED = 400
_NOT_FOUND = 404
_BARE_CODES = {_NOT_FOUND: "not_found", 410: "upload_gone", 401: "unauthorized"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to go on trying when nothing moves; progress starts the count anew."""

    attempts: int = 8
    first_pause_s: float = 0.2
    longest_pause_s: float = 10.0

    async def insist(self, action: Callable[[int], Awaitable[T]]) -> T:
        """Call *action* with 1, 2, … until it succeeds or the patience is used up."""
        for attempt in range(1, self.attempts):
            try:
                return await action(attempt)
            except RequestFailed as error:
                answer = worth_another_try(error)
                if answer is False:
                    raise
            await asyncio.sleep(self.pause_after(attempt) if answer is True else answer)
        return await action(self.attempts)

    def pause_after(self, attempt: int) -> float:
        """Return twice the last pause, and a bit: many clients must not march."""
        # 30 doublings are longer than any pause
        grown = self.first_pause_s * 2.0 ** min(attempt - 1, 30)
        spread = random.uniform(0, self.first_pause_s)  # noqa: S311 -- no secret
        return min(self.longest_pause_s, grown + spread)


def worth_another_try(error: RequestFailed) -> bool | float:
    """Tell whether the same request may succeed soon, or after how many seconds."""
    if isinstance(error, ServerUnreachable):
        return True
    if not isinstance(error, ServerRefused) or error.status not in _PASSING:
        return False
    if error.retry_after_s is None:
        return True
    return error.retry_after_s if error.retry_after_s <= _MAX_RETRY_AFTER_S else False


class Session:
    """A connection pool to one server. Raises only RequestFailed and its kinds."""

    def __init__(self, url: str, token: str | None, patience: Patience) -> None:
        try:
            self.base = URL(url)
        except ValueError:
            # without its cause, which may repeat a password
            raise BadAddress(url) from None
        if self.base.scheme not in {"http", "https"} or not self.base.host:
            raise BadAddress(url)
        if self.base.user is not None or self.base.password is not None:
            # it would stand in for the token, and in every message and log
            raise BadAddress(url)
        if not self.base.path.endswith("/"):
            # so that relative references stay below a proxy's prefix
            self.base = self.base.with_path(f"{self.base.path}/")
        # what cannot be seen is no part of it; a file with CRLF leaves a CR at its end
        if token and not token.isprintable():
            raise BadToken
        self.patience = patience
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Start the connection pool. Raise RuntimeError if there is one."""
        if self._http is not None:
            raise RuntimeError(IN_USE)
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_S, sock_read=SILENCE_S
            ),
            auto_decompress=True,
            trace_configs=[_counting()],
        )

    async def close(self) -> None:
        """Close every connection."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    def resolve(self, reference: str) -> URL:
        """Return the absolute address of *reference*, relative to the server's."""
        return self.base.join(URL(reference))

    @property
    def address(self) -> str:
        """The server's address."""
        return str(self.base)

    @property
    def http(self) -> aiohttp.ClientSession:
        """The open connection pool."""
        if self._http is None:
            raise RuntimeError("use the client inside `async with`")
        return self._http

    def headers_for(self, url: URL) -> Mapping[str, str]:
        """Return the credentials for *url*: none for a server other than ours."""
        return self._headers if url.origin() == self.base.origin() else {}

    @asynccontextmanager
    async def request(
        self,
        method: str,
        reference: str,
        *,
        headers: Mapping[str, str] | None = None,
        **rest: Any,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; yield its answer if that is not a refusal.

        A list given as `trace_request_ctx` grows by one each time that it is sent:
        aiohttp repeats some by itself when a connection breaks.
        """
        url = self.resolve(reference)
        with as_unreachable(self.address):
            async with self.http.request(
                method,
                url,
                headers={**self.headers_for(url), **(headers or {})},
                allow_redirects=False,
                **rest,
            ) as answer:
                if answer.status >= _FAILED:
                    raise await _refusal(answer)
                yield answer

    async def fetch(self, method: str, reference: str, kind: type[T], **rest: Any) -> T:
        """Send a request with a few tries; return its JSON answer as a *kind*."""

        async def once(_attempt: int) -> T:
            async with self.request(method, reference, **rest) as answer:
                return decode(await answer.read(), kind, str(answer.url))

        return await self.patience.insist(once)


def _counting() -> aiohttp.TraceConfig:
    async def sent(
        _session: aiohttp.ClientSession,
        request: SimpleNamespace,
        _headers: aiohttp.TraceRequestHeadersSentParams,
    ) -> None:
        if request.trace_request_ctx is not None:
            request.trace_request_ctx.append(None)

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(sent)
    return trace


def segment(name: str) -> str:
    """Return *name* as one segment of a path. Raise ServerRefused if it cannot be one.

    What a server would never see as it was meant (nothing, `.`, `..`) names nothing.
    """
    if name in {"", ".", ".."}:
        raise ServerRefused(
            code=_BARE_CODES[_NOT_FOUND],
            detail=f"{name!r} is the name of nothing",
            status=_NOT_FOUND,
        )
    return quote(name, safe="")


def decode(body: bytes | str, kind: type[T], url: str) -> T:
    """Read JSON as a *kind*. Raise UnexpectedAnswer if it is something else."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise UnexpectedAnswer(url, str(error)) from error


@contextmanager
def as_unreachable(address: str) -> Iterator[None]:
    """Turn the network's errors into ServerUnreachable."""
    try:
        yield
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ServerUnreachable(address, _reason(error)) from error


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, aiohttp.ClientOSError) and error.errno:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


async def _refusal(answer: aiohttp.ClientResponse) -> ServerRefused:
    raw = await answer.content.read(1 << 16)
    try:
        problem = msgspec.json.decode(raw, type=ProblemDocument)
    except msgspec.MsgspecError:
        problem = ProblemDocument()
    fallback = _BARE_CODES.get(answer.status, f"http_{answer.status}")
    return ServerRefused(
        code=problem.code or fallback,
        detail=problem.detail or problem.title or answer.reason or "refused",
        status=answer.status,
        retry_after_s=_seconds(answer.headers.get("Retry-After")),
    )


def _seconds(value: str | None) -> float | None:
    return float(value) if value and value.isascii() and value.isdecimal() else None
