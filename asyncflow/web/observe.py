"""Each request in the log and in the metrics, without what is nobody's business.

Rules
-----
- A route is named by its pattern: paths hold ids and file names, queries hold tokens;
  neither is logged above debug, the query never.
- The log line of a success is for debug; what began a job is for info, with its id, and
  so are refusals; our faults are for error.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from asyncflow.metrics import OTHER, Metrics
from asyncflow.web.errors import CLIENT_CLOSED
from asyncflow.web.intake import JOB_ID
from asyncflow.web.proxies import address_of

UNMATCHED: Final = "unmatched"

log = structlog.stdlib.get_logger(__name__)

#: something began that goes on without its client
BEGINNINGS: Final = frozenset({201, 202})
REFUSED: Final = HTTPStatus.BAD_REQUEST.value
FAILED: Final = HTTPStatus.INTERNAL_SERVER_ERROR.value
#: the server is busy, full or stopping: said on purpose, no fault of ours
REFUSALS: Final = frozenset({503, 507})
#: the client asked for what no server of this kind does
NOT_IMPLEMENTED: Final = HTTPStatus.NOT_IMPLEMENTED.value


def observed(
    metrics: Metrics, clock: Callable[[], float] = time.monotonic
) -> Middleware:
    """Return the middleware that counts, measures and logs; it belongs outermost."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = clock()
        status = FAILED
        job = None
        try:
            response = await handler(request)
            status, job = response.status, response.headers.get(JOB_ID)
        except web.HTTPException as redirect:
            status = redirect.status
            raise
        except asyncio.CancelledError:
            status = CLIENT_CLOSED
            raise
        finally:
            _note(request, metrics, status, clock() - began, job)
        return response

    return middleware


def route_of(request: web.Request) -> str:
    """Return the pattern of the route that took *request*, such as `/status/{id}`."""
    resource = request.match_info.route.resource
    return UNMATCHED if resource is None else resource.canonical


def _note(
    request: web.Request,
    metrics: Metrics,
    status: int,
    duration_s: float,
    job: str | None,
) -> None:
    route = route_of(request)
    method = request.method if request.method in hdrs.METH_ALL else OTHER
    metrics.http_requests.inc(route, method, f"{status // 100}xx")
    metrics.http_duration.observe(duration_s, route, method)
    level = _level(status, job)
    if log.is_enabled_for(level):
        log.log(
            level,
            "http.request",
            route=route,
            method=method,
            status=status,
            duration_s=round(duration_s, 4),
            client=address_of(request),
            **({"job": job} if job else {}),
        )


def _level(status: int, job: str | None) -> int:
    if status in REFUSALS:
        return logging.WARNING
    if status >= FAILED and status != NOT_IMPLEMENTED:
        return logging.ERROR
    if status >= REFUSED or (job and status in BEGINNINGS):
        return logging.INFO
    return logging.DEBUG
