"""asyncflow inside somebody else's aiohttp application.

`create_app` makes an application that any runner can serve; `setup` mounts one under a
prefix. Either way the engine room starts and stops with the application.

Rules
-----
- The host keeps its routes, its middlewares, its log and its process as they are.
- Nothing listens here: limits on connections belong to who runs the application.
- Without `authenticate` the rules of `asyncflow serve` hold; who is not on this machine
  needs the token, for we do not know which address is listened on.
"""

import dataclasses
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import structlog
from aiohttp import web

from asyncflow import logs
from asyncflow.config import Settings, load
from asyncflow.errors import StartError
from asyncflow.hooks import Hooks, OnCompleted, OnEvent, OwnedJob, owned
from asyncflow.runtime import Runtime
from asyncflow.server import access, build_app
from asyncflow.web.auth import Authenticate, TokenAuth

DEFAULT_PREFIX = "/uploads"
#: a route that every server has
_ALIVE = "/livez"
#: what needs no escaping (RFC 3986, unreserved): so there is one way to write it
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")


def create_app(
    settings: Settings | None = None,
    *,
    authenticate: Authenticate | None = None,
    on_completed: OnCompleted | None = None,
    on_event: OnEvent | None = None,
) -> web.Application:
    """Return an application that is a whole server, for any runner.

    *settings* are read as `asyncflow serve` reads them if none are given. The hooks are
    those of `setup`.

    Raises:
        BadSettings: the settings that were read cannot be used.
        StartError: the server cannot start like this. Also raised at the start of an
            application that is mounted in another: that takes `setup`.
    """
    return _build(settings, "", authenticate, on_completed, on_event)


def setup(
    app: web.Application,
    *,
    prefix: str = DEFAULT_PREFIX,
    settings: Settings | None = None,
    authenticate: Authenticate | None = None,
    on_completed: OnCompleted | None = None,
    on_event: OnEvent | None = None,
) -> web.Application:
    """Mount a server in *app* below *prefix*; return the sub-application.

    `authenticate(request)` returns a Principal or raises Unauthorized; everybody then
    reaches only jobs of their own owner and tenant. `on_completed(job)` is told of jobs
    that succeeded, `on_event(change)` of every change; what they raise is logged. Each
    is a coroutine function, or a plain one that returns at once.

    Raises:
        ValueError: the prefix is no path such as `/uploads`, or is taken already.
        TypeError: what should be a function is none.
        BadSettings: the settings that were read cannot be used.
        StartError: the server cannot start like this. Also raised at the start if
            *app* is itself mounted in another application.
    """
    _check_prefix(app, prefix)
    ours = _build(settings, prefix, authenticate, on_completed, on_event)
    app.add_subapp(prefix, ours)
    return ours


def _check_prefix(app: web.Application, prefix: str) -> None:
    if not _PREFIX.fullmatch(prefix) or {".", ".."} & set(prefix.split("/")):
        accepted = (
            "a path such as /uploads, with a slash before it and none after it, "
            "of letters, digits and -._~"
        )
        raise ValueError(f"prefix is {prefix!r}; accepted: {accepted}")
    if any(
        isinstance(one, web.PrefixedSubAppResource) and one.canonical == prefix
        for one in app.router.resources()
    ):
        raise ValueError(f"prefix is {prefix!r}, which the application has already")


def _build(
    settings: Settings | None,
    prefix: str,
    authenticate: Authenticate | None,
    on_completed: OnCompleted | None,
    on_event: OnEvent | None,
) -> web.Application:
    _check_functions(
        authenticate=authenticate, on_completed=on_completed, on_event=on_event
    )
    if settings is None:
        settings = load({}, env=os.environ, cwd=Path.cwd())
    # the workers' folder is another one
    settings = dataclasses.replace(settings, data_dir=settings.data_dir.absolute())
    secrets = []
    if authenticate is None:
        who = access(settings)
        secrets.append(who.token)
        authenticate = TokenAuth(
            who.token,
            open_locally=who.is_open,
            near_only=not settings.allow_public,
            prefix=prefix,
        )
    if not structlog.is_configured():
        logs.configure(
            level=settings.log_level,
            as_json=logs.wants_json(settings.log_format),
        )
    logs.conceal(secrets)
    runtime = Runtime(settings, url_prefix=prefix)

    async def look(job_id: str) -> OwnedJob:
        view, owner = await runtime.status(job_id), await runtime.db.owner(job_id)
        return owned(view, owner=owner.owner, tenant=owner.tenant)

    hooks = Hooks(look=look, on_completed=on_completed, on_event=on_event)
    app = build_app(runtime, authenticate)
    if prefix:
        app.router.add_get("", _to_the_page)
    _tie(app, runtime, hooks)
    return app


def _check_functions(**given: object) -> None:
    for name, function in given.items():
        if function is not None and not callable(function):
            kind = type(function).__name__
            raise TypeError(f"{name} is a {kind}; accepted: a function, or None")


async def _to_the_page(request: web.Request) -> web.Response:
    """Send a browser to the page: its links are relative to the slash at the end."""
    where = request.rel_url.with_path(f"{request.path}/", keep_query=True)
    return web.Response(status=308, headers={"Location": str(where)})


def _check_place(app: web.Application, prefix: str) -> None:
    """Raise StartError if *app* has been mounted below a place it does not know.

    It is known only now: whoever mounts an application moves all that is in it.
    """
    places = (one.canonical for one in app.router.resources())
    at = next(place for place in places if place.endswith(_ALIVE))
    at = at.removesuffix(_ALIVE)
    if at != prefix:
        raise StartError(
            f"the server inside is mounted at {at}, and every address it tells would "
            f"begin with {prefix or '/'}: call asyncflow.setup with the outermost "
            f"application and prefix={at!r}"
        )


def _tie(app: web.Application, runtime: Runtime, hooks: Hooks) -> None:
    """Let the engine room live as long as *app* does."""
    grace_s = runtime.settings.grace

    async def live(_app: web.Application) -> AsyncIterator[None]:
        _check_place(app, runtime.url_prefix)
        runtime.engine.listeners.append(hooks.changed)
        await runtime.start()
        hooks.start()
        # a host that fails after this never cleans up: then the loop ends the
        # generator, and what did not end with it would keep the process
        try:
            yield
        finally:
            await hooks.stop(grace_s)
            await runtime.close()

    async def drain(_app: web.Application) -> None:
        # before the runner waits for open requests: sockets would keep it waiting
        await runtime.drain(grace_s)

    app.cleanup_ctx.append(live)
    app.on_shutdown.append(drain)
