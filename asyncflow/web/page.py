"""The pages for people and their assets: our own scripts and styles, nobody else's."""

import json
import re
from collections.abc import Mapping
from html import escape
from importlib import resources
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from asyncflow.errors import (
    AsyncflowError,
    ClientError,
    NotFound,
    ServerBusy,
    Unauthorized,
)
from asyncflow.web import errors
from asyncflow.web.auth import ADMIN, principal_key

#: `blob:` shows a picture before it is uploaded; nothing inline, nothing foreign
CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

TYPES: Mapping[str, str] = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}


def add_routes(app: web.Application) -> None:
    """Add the upload page to *app*."""
    app.router.add_get("/", show)
    app.router.add_get("/assets/{name}", asset)


def _assets() -> dict[str, bytes]:
    folder = resources.files("asyncflow.web").joinpath("static")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


ASSETS: Mapping[str, bytes] = _assets()


#: what only an operator is shown
_FOR_OPERATORS: Final = re.compile(
    r"<!-- operator -->.*?<!-- /operator -->\n", re.DOTALL
)


async def show(request: web.Request) -> web.Response:
    """Show the upload page; the operator's links to whom they open."""
    principal = request.get(principal_key)
    body = ASSETS["index.html"].decode()
    if principal is None or ADMIN not in principal.scopes:
        body = _FOR_OPERATORS.sub("", body)
    return _page(body)


async def asset(request: web.Request) -> web.Response:
    """Send a script, a style sheet or the icon."""
    name = request.match_info["name"]
    media_type = TYPES.get(name[name.rfind(".") :])
    if name not in ASSETS or media_type is None:
        raise NotFound
    return web.Response(
        body=ASSETS[name],
        content_type=media_type,
        charset="utf-8",
        headers={hdrs.CACHE_CONTROL: "no-cache"},
    )


def html(
    name: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **texts: str,
) -> web.Response:
    """Return the page *name*; each of *texts* replaces its `{name}`, as text."""
    body = ASSETS[name].decode()
    for place, text in texts.items():
        body = body.replace(f"{{{place}}}", escape(text))
    return _page(body, status=status, headers=headers)


def _page(
    body: str, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.Response(
        status=status,
        text=body,
        content_type="text/html",
        headers={
            "Content-Security-Policy": CSP,
            # without it a form of ours comes from the origin `null`, which is refused
            "Referrer-Policy": "same-origin",
            hdrs.CACHE_CONTROL: "no-cache",
            **(headers or {}),
        },
    )


def friendly(*, has_token: bool, prefix: str = "") -> Middleware:
    """Return the middleware that tells a person what programs are told as JSON.

    That is how to get in, why something was refused, and, where no script runs, what
    became of files. It belongs just inside of what turns errors into answers. Unless
    *has_token*, it is somebody else who knows how people get in. *prefix* stands before
    every path.
    """
    form_path = f"{prefix}/upload"

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        is_form = request.path == form_path and _is_form(request)
        try:
            answer = await handler(request)
        except web.HTTPNotFound:
            if not _is_visit(request):
                raise
            return _refusal("refused.html", NotFound(), prefix)
        except (ClientError, ServerBusy) as error:
            if not (is_form or _is_visit(request)) or errors.begun(request):
                raise
            asks = has_token and isinstance(error, Unauthorized)
            page = "unauthorized.html" if asks else "refused.html"
            return _refusal(page, error, prefix)
        if is_form and isinstance(answer, web.Response):
            return _received(answer, prefix)
        return answer

    return middleware


#: what stands above the reason, by status
_TITLES: Mapping[int, str] = {
    401: "You need to sign in first",
    403: "You may not do this",
    404: "Not found",
}


def _refusal(page: str, error: AsyncflowError, prefix: str) -> web.Response:
    status = errors.status_of(type(error))
    detail = error.detail[:1].upper() + error.detail[1:]
    return html(
        page,
        status=status,
        headers=errors.headers_of(error),
        base=prefix,
        title=_TITLES.get(status, "This did not work"),
        detail=detail if detail.endswith(".") else f"{detail}.",
    )


def _is_form(request: web.Request) -> bool:
    """Tell whether a browser has sent a form by itself, to show what comes back."""
    # not Sec-Fetch-Mode: over plain HTTP browsers send it to this machine alone
    return (
        request.method == hdrs.METH_POST
        and "text/html" in request.headers.get(hdrs.ACCEPT, "")
        and request.content_type == "multipart/form-data"
    )


def _received(answer: web.Response, prefix: str) -> web.Response:
    """Show what became of the files of a form: one answer, or a list of them."""
    told = json.loads(answer.text or "{}")
    lines = [
        f"<li><bdi>{escape(one['fileName'] or 'file')}</bdi>: {_outcome(one)}</li>"
        for one in told.get("jobs", [told])
    ]
    body = ASSETS["received.html"].decode()
    body = body.replace("{base}", prefix).replace("{files}", "\n".join(lines))
    return _page(body, status=answer.status)


def _outcome(one: Mapping[str, str | None]) -> str:
    said = escape(one["message"] or "")
    where = one["statusUrl"]
    return said if where is None else f'{said} <a href="{escape(where)}">Status</a>'


def _is_visit(request: web.Request) -> bool:
    """Tell whether a browser asks for a page, rather than a script or a program."""
    wanted = request.headers.get(hdrs.ACCEPT, "")
    return request.method == hdrs.METH_GET and "text/html" in wanted
