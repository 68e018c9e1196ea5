"""The server: routes in front of a runtime, started and stopped as a service is."""

import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from asyncflow import __version__, heap, logs, sandbox
from asyncflow.capacity import connections_within, files_needed, raise_file_limit
from asyncflow.config import Settings
from asyncflow.errors import ShuttingDown, StartError
from asyncflow.notify import READY, STOPPING, notify
from asyncflow.runtime import Runtime
from asyncflow.threads import begun
from asyncflow.web import (
    chunked,
    dialects,
    events,
    jobs,
    multipart,
    operator,
    page,
    progress,
    tasks,
)
from asyncflow.web.admin import add_admin
from asyncflow.web.archive import add_archive
from asyncflow.web.auth import Authenticate, TokenAuth, ensure_token
from asyncflow.web.certificate import Certificate
from asyncflow.web.digests import FileDigests
from asyncflow.web.downloads import add_downloads
from asyncflow.web.edge import install_edge
from asyncflow.web.fastpath import FastPath
from asyncflow.web.files import JobFiles
from asyncflow.web.guards import Guards
from asyncflow.web.health import Capabilities, ProcessorStatus, add_health
from asyncflow.web.keys import (
    chunks_key,
    digests_key,
    fast_key,
    orders_key,
    runtime_key,
)
from asyncflow.web.limits import ConnectionLimits
from asyncflow.web.openapi import add_description
from asyncflow.web.operations import OPERATIONS
from asyncflow.web.proxies import networks
from asyncflow.web.rehearsal import rehearse
from asyncflow.web.site import Site, start_site
from asyncflow.web.wholes import Wholes

log = structlog.get_logger(__name__)

#: what all chunks in JSON together may take of the memory, and all other bodies of JSON
CHUNKS_BYTES = 128 << 20
ORDERS_BYTES = 32 << 20
#: modules with an `add_routes` that needs nothing but the application
ROUTES = (
    page,
    dialects,
    chunked,
    multipart,
    jobs,
    tasks,
    progress,
    events,
    operator,
)
#: how long the last answers may take once everything has stopped
CLOSE_S = 1.0
#: for a shell whose environment has the token, as the server's has
TOKEN_HEAD = '-H "Authorization: Bearer $ASYNCFLOW_TOKEN" '  # noqa: S105 -- a name
#: objects made since the last look for cycles, before there is another one
GARBAGE = 20_000
#: how long the process may live once everything of ours has stopped
LEAVE_S = 3.0
#: so long may a thread that computes keep the event loop waiting; Python's own 5 ms is
#: most of what a small request takes
SWITCH_S = 0.0005
#: threads for what blocks and is no work of the store
BLOCKING = 8
#: a server with fewer is of no use
LEAST_CONNECTIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may do what: the server's token, and whether it is needed for everything."""

    token: str
    needed_everywhere: bool

    @property
    def is_open(self) -> bool:
        """Whether single jobs can be reached without the token."""
        return not self.needed_everywhere


def access(settings: Settings) -> Access:
    """Return the token in force, made on the first start.

    Raises:
        StartError: a public address without a token.
    """
    if settings.token is not None:
        return Access(token=settings.token.get_secret_value(), needed_everywhere=True)
    if settings.is_public and not settings.allow_public:
        raise StartError(
            f"{settings.host} can be reached by others: set ASYNCFLOW_TOKEN, "
            "or allow it with --allow-public"
        )
    return Access(token=ensure_token(settings.data_dir), needed_everywhere=False)


def build_app(runtime: Runtime, authenticate: Authenticate) -> web.Application:
    """Return the application that serves *runtime* to whom *authenticate* knows."""
    settings = runtime.settings
    # with a token there is one owner; who else it is, somebody else's function decides
    has_one_owner = isinstance(authenticate, TokenAuth)
    app = web.Application(client_max_size=0)
    app[runtime_key] = runtime
    app[fast_key] = fast = FastPath()
    app[digests_key] = FileDigests(db=runtime.db, store=runtime.store)
    app[orders_key] = Wholes(ORDERS_BYTES)
    refused = runtime.metrics.uploads_refused.inc
    app[chunks_key] = Wholes(CHUNKS_BYTES, on_refusal=refused)

    async def let_go(_app: web.Application) -> None:
        fast.close()

    app.on_cleanup.append(let_go)
    install_edge(
        app,
        guards=Guards(
            loopback_only=not settings.is_public,
            public_url=settings.public_url,
            # whoever must prove who they are is safe from rebound names
            allowed_hosts=settings.allowed_hosts if has_one_owner else ("*",),
            allowed_origins=frozenset(settings.allowed_origins),
        ),
        authenticate=authenticate,
        metrics=runtime.metrics,
        owner_of=None if has_one_owner else runtime.db.owner,
        prefix=runtime.url_prefix,
        trusted_proxies=networks(settings.trusted_proxies),
    )
    for routes in ROUTES:
        routes.add_routes(app)
    files = JobFiles(runtime)
    add_downloads(app, files, runtime.store)
    add_archive(app, files, runtime.store)
    checks = runtime.checks()
    add_admin(app, checks=checks)
    add_health(
        app,
        checks=checks,
        draining=lambda: runtime.engine.is_drained,
        metrics=runtime.metrics,
        capabilities=lambda: capabilities(runtime, fast),
    )
    add_description(app, OPERATIONS, prefix=runtime.url_prefix)
    return app


def capabilities(runtime: Runtime, fast: FastPath) -> Capabilities:
    """Return what this server can do, for clients and for the first screen."""
    settings = runtime.settings
    return Capabilities(
        version=__version__,
        protocols=("tus/1.0.0", "ietf-resumable", "multipart", "raw", "chunked"),
        limits={
            "maxUploadBytes": settings.max_upload_bytes,
            "maxPixels": settings.max_pixels,
            "maxPages": settings.max_pages,
            "uploadExpiryS": settings.upload_expiry,
        },
        types=settings.allowed_types,
        fast_path=fast.is_on,
        processors=tuple(
            ProcessorStatus(
                name=card.name,
                accepts=card.accepts,
                missing_tool=runtime.missing_tool(card.name),
            )
            for card in runtime.pool.processors.values()
        ),
    )


def run(settings: Settings) -> int:
    """Serve until a signal says stop; return the exit code.

    Raises:
        StartError: the server cannot start like this.
        OSError: the address cannot be bound.
    """
    who = access(settings)
    logs.configure(
        level=settings.log_level,
        as_json=logs.wants_json(settings.log_format),
        secrets=[who.token],
    )
    logs.adopt_libraries()
    sandbox.forbid_inspection()
    heap.share()
    sys.setswitchinterval(SWITCH_S)
    _find_modules_here(settings)
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if settings.loop == "uvloop":
        import uvloop  # noqa: PLC0415 -- not there on every platform

        factory = uvloop.new_event_loop
    runner = asyncio.Runner(loop_factory=factory)
    try:
        return _run_to_its_end(runner.get_loop(), _serve(settings, who))
    finally:
        # it waits for its threads on one more, which may not be had: they have no work
        with suppress(RuntimeError):
            runner.close()


def _run_to_its_end(
    loop: asyncio.AbstractEventLoop, serving: Coroutine[Any, Any, int]
) -> int:
    """Run *serving* to its own end.

    A SystemExit or KeyboardInterrupt that leaves any task stops the loop. Signals are
    taken otherwise, so it is a function of somebody's own that has begun a task.
    """
    server = loop.create_task(serving, name="server")
    while True:
        try:
            return loop.run_until_complete(server)
        except (KeyboardInterrupt, SystemExit) as stray:
            if server.done():
                raise
            log.warning("server.exit_refused", error=type(stray).__name__)


def _collect_less() -> None:
    """Keep the garbage collector from looking at what lives as long as the server.

    It would walk through all modules and routes again and again. What is left for it
    are cycles, which are rare here: it may come less often. And what only the start
    needed is given back.
    """
    gc.collect()
    gc.freeze()
    heap.give_back()
    gc.set_threshold(GARBAGE, 20, 20)


def _leave() -> None:
    """Let the process end soon, whatever somebody's own tasks and threads make of it.

    All that is ours has stopped by now.
    """
    timer = threading.Timer(LEAVE_S, os._exit, (0,))
    timer.daemon = True
    # where no thread can be begun, nobody's keep us long either
    with suppress(RuntimeError):
        timer.start()


def _find_modules_here(settings: Settings) -> None:
    """Let the modules of one's own lie in the folder where the server starts.

    It is looked in last: a file in it can take the place of no library.
    """
    here = str(Path.cwd())
    if settings.processors and here not in sys.path:
        sys.path.append(here)


async def _serve(settings: Settings, who: Access) -> int:
    stop = _signals()
    certificate = _certificate(settings)
    runtime = Runtime(settings)
    # asyncio's own would begin one by one, as work comes for them; of each run a result
    # may be packed while somebody looks at its folder
    threads = begun(BLOCKING + 2 * runtime.pool.size, "asyncio")
    asyncio.get_running_loop().set_default_executor(threads)
    if not await _started(runtime, stop):
        log.info("server.stopped")
        return 0
    try:
        app = build_app(runtime, TokenAuth(who.token, open_locally=who.is_open))
        await rehearse(app[fast_key])
        site = await start_site(
            app,
            host=settings.host,
            port=settings.port,
            limits=ConnectionLimits(
                head_timeout_s=settings.header_timeout,
                idle_timeout_s=settings.idle_timeout,
                max_connections=_room_for_connections(runtime),
            ),
            grace_s=CLOSE_S,
            ssl_context=None if certificate is None else certificate.context,
        )
        if certificate is not None:
            certificate.keep_renewed()
        runtime.metrics.on_scrape(_connections(runtime, site))
        _collect_less()
        _greet(runtime, who, site)
        notify(READY)
        await stop.wait()
        notify(STOPPING)
        log.info("server.stopping", grace_s=settings.grace)
        site.stop_listening()
        await runtime.drain(settings.grace)
        await site.close()
    finally:
        await runtime.close()
    log.info("server.stopped")
    _leave()
    return 0


async def _started(runtime: Runtime, stop: asyncio.Event) -> bool:
    """Start *runtime*; False: it was told to stop before it had begun."""
    starting = asyncio.create_task(runtime.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        runtime.pool.give_up()
    stopping.cancel()
    try:
        await starting
    except ShuttingDown:
        return False
    return True


def _certificate(settings: Settings) -> Certificate | None:
    """Return what https is served by; None: http. Raise StartError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Certificate(settings.tls_cert, settings.tls_key)


def _room_for_connections(runtime: Runtime) -> int:
    """Return how many connections there may be, so that files can be opened as well.

    Raises:
        StartError: hardly any.
    """
    files, workers = raise_file_limit(), runtime.pool.size
    room = connections_within(files, workers)
    if room < LEAST_CONNECTIONS:
        raise StartError(
            f"{files} files may be open at once, and a server with {workers} workers"
            f" needs {files_needed(workers, LEAST_CONNECTIONS)}:"
            " raise the limit (ulimit -n, or LimitNOFILE= of the service)"
        )
    wanted = runtime.settings.max_connections
    if room < wanted:
        log.info("server.fewer_connections", most=room, wanted=wanted, files=files)
    return min(room, wanted)


def _connections(runtime: Runtime, site: Site) -> Callable[[], Awaitable[None]]:
    async def measure() -> None:
        runtime.metrics.connections.set(site.open_connections)

    return measure


def _signals() -> asyncio.Event:
    """Return an event that the first signal sets; the second exits at once."""
    stop = asyncio.Event()

    def heard(number: int) -> None:
        if stop.is_set():
            # Workers and the fork server die with us: the kernel sees to it.
            os._exit(128 + number)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, heard, number)
    return stop


def _greet(runtime: Runtime, who: Access, site: Site) -> None:
    """Print what the person who started the server wants to know."""
    settings = runtime.settings
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "http" if settings.tls_cert is None else "https"
    address = settings.public_url or f"{scheme}://{host}:{site.port}"
    # a token that somebody set is theirs to know, and not to stand on a screen; and
    # none shall stand in what others keep of a server's output
    is_told = settings.token is None and sys.stdout.isatty()
    secret = f"?token={who.token}" if is_told else ""
    head = TOKEN_HEAD if who.needed_everywhere else ""
    lines = [
        f"asyncflow {__version__} listens on {address}",
        f"  open      {address}/{secret}",
        f"  upload    curl {head}-T photo.jpg {address}/upload/",
        f"  data      {settings.data_dir}",
        f"  workers   {runtime.pool.size}  ({runtime.pool.sandbox})",
    ]
    for card in sorted(runtime.pool.processors.values(), key=lambda c: c.name):
        missing = runtime.missing_tool(card.name)
        state = "ready" if missing is None else f"missing: {missing}"
        lines.append(f"  {card.name:<9} {state}")
    if who.needed_everywhere:
        lines.append("  token     needed for everything (the one you set)")
    elif not is_told:
        lines.append(f"  token     in {settings.data_dir / 'token'}, for the operator")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
