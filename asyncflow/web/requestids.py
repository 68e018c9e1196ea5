"""A name for each request: in its answer, and in every log line that it causes.

Rules
-----
- Only a trusted proxy of ours may bring a name along (`X-Request-Id`): anybody else
  could make one request look like another in the log. A name that is no short word is
  replaced.
- The name ends with the request: a connection carries many of them.
"""

import re
from collections.abc import Callable
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from asyncflow.chance import Entropy
from asyncflow.web.proxies import came_by_proxy

REQUEST_ID: Final = "X-Request-Id"
request_id_key: Final = web.RequestKey("request_id", str)

_SANE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def named(new_id: Callable[[], str] | None = None) -> Middleware:
    """Return the middleware that names requests; outermost, but for the proxies'."""
    entropy = Entropy()
    fresh = new_id or (lambda: entropy(8).hex())

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        asked = request.headers.get(REQUEST_ID, "") if came_by_proxy(request) else ""
        request_id = asked if _SANE.fullmatch(asked) else fresh()
        request[request_id_key] = request_id
        tokens = structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            return await handler(request)
        finally:
            structlog.contextvars.reset_contextvars(**tokens)

    return middleware
