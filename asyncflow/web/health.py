"""What supervisors, scrapers and clients ask before they trust a server."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Literal

import msgspec
import structlog
from aiohttp import hdrs, web

from asyncflow.errors import AsyncflowError, Forbidden, Unauthorized
from asyncflow.metrics import EXPOSITION, Metrics
from asyncflow.views import View
from asyncflow.web.auth import ADMIN, METRICS, principal_key

#: a check that takes longer has failed: a supervisor gives up sooner than a disk
CHECK_TIMEOUT_S: Final = 2.0

#: returns None if all is well, else the reason in plain words; may raise
Check = Callable[[], Awaitable[str | None]]

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorStatus:
    """One processor, and the tool that it lacks, if it does."""

    name: str
    accepts: tuple[str, ...]
    missing_tool: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What this server can do; *limits* are in camelCase, as clients see them."""

    version: str
    protocols: tuple[str, ...]
    limits: Mapping[str, int | float | None]
    types: tuple[str, ...]
    processors: tuple[ProcessorStatus, ...]
    #: whether large bodies go from the socket to the disk inside the kernel
    fast_path: bool = False

    def shown(self) -> "CapabilitiesView":
        """Return what is sent."""
        return CapabilitiesView(
            version=self.version,
            protocols=self.protocols,
            limits=self.limits,
            types=self.types,
            fast_path=self.fast_path,
            processors=tuple(
                ProcessorView(
                    name=one.name,
                    accepts=one.accepts,
                    ready=one.missing_tool is None,
                    missing_tool=one.missing_tool,
                )
                for one in self.processors
            ),
        )


class ProcessorView(View, frozen=True, kw_only=True):
    """A processor, and the tool that it lacks, if it does."""

    name: str
    accepts: tuple[str, ...]
    ready: bool
    missing_tool: str | None


class CapabilitiesView(View, frozen=True, kw_only=True):
    """What this server can do."""

    version: str
    protocols: tuple[str, ...]
    limits: Mapping[str, int | float | None]
    types: tuple[str, ...]
    fast_path: bool
    processors: tuple[ProcessorView, ...]


class Alive(View, frozen=True, kw_only=True):
    """The process answers."""

    status: Literal["alive"] = "alive"


class CheckResult(View, frozen=True, kw_only=True):
    """One condition of being ready."""

    ok: bool
    reason: str | None


class Readiness(View, frozen=True, kw_only=True):
    """Whether the server can work, by its checks.

    A server that is *draining* takes what comes, and begins no step until an operator
    says so: that is no reason to send its clients elsewhere.
    """

    status: Literal["ready", "not ready"]
    draining: bool
    checks: Mapping[str, CheckResult]


def add_health(
    app: web.Application,
    *,
    checks: Mapping[str, Check],
    draining: Callable[[], bool],
    metrics: Metrics,
    capabilities: Callable[[], Capabilities],
    check_timeout_s: float = CHECK_TIMEOUT_S,
) -> None:
    """Add `/livez`, `/readyz`, `/metrics` and `/capabilities` to *app*."""

    async def livez(_: web.Request) -> web.Response:
        # answering is the proof: the loop runs
        return _json(Alive())

    async def readyz(_: web.Request) -> web.Response:
        reasons = await failing(checks, timeout_s=check_timeout_s)
        checked = {
            name: CheckResult(ok=name not in reasons, reason=reasons.get(name))
            for name in checks
        }
        found = Readiness(
            status="not ready" if reasons else "ready",
            draining=draining(),
            checks=checked,
        )
        if reasons:
            return _json(found, status=HTTPStatus.SERVICE_UNAVAILABLE)
        return _json(found)

    async def show_metrics(request: web.Request) -> web.Response:
        principal = request.get(principal_key)
        if principal is not None and not principal.scopes & {METRICS, ADMIN}:
            refusal = Unauthorized if principal.is_anonymous else Forbidden
            raise refusal("these are the numbers of all users together")
        body = await metrics.render()
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: EXPOSITION})

    async def show_capabilities(_: web.Request) -> web.Response:
        return _json(capabilities().shown())

    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/capabilities", show_capabilities)


async def failing(
    checks: Mapping[str, Check], *, timeout_s: float = CHECK_TIMEOUT_S
) -> dict[str, str]:
    """Run all *checks* at once; return the reasons of those that failed."""
    runs = (_run(name, one, timeout_s) for name, one in checks.items())
    found = await asyncio.gather(*runs)
    return {
        name: why for name, why in zip(checks, found, strict=True) if why is not None
    }


async def _run(name: str, check: Check, timeout_s: float) -> str | None:
    try:
        async with asyncio.timeout(timeout_s):
            return await check()
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    except AsyncflowError as error:
        return error.detail
    except Exception:  # a broken check is a failed check
        log.exception("health.check_failed", check=name)
        return "the check itself failed; the log has the reason"


def _json(value: View, *, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    return web.Response(
        status=status,
        body=msgspec.json.encode(value),
        content_type="application/json",
        headers={hdrs.CACHE_CONTROL: "no-store"},
    )
