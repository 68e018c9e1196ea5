"""Who may talk to this server from a browser: Host, Origin, CORS, security headers.

Rules
-----
- Any web page its operator visits can make a browser post to localhost, and can point a
  name of its own at 127.0.0.1 (DNS rebinding). So the Host must be one of ours, and a
  page may change things only from our own origin or a listed one.
- The origin `null` (sandboxed frames, local files) is never ours.
- CORS is off unless origins are listed; no answer ever holds `*`, and cookies are never
  offered to other origins.
- On a loopback address only loopback names are right. On any other address a literal IP
  is right too: no page can make a browser send one for a name it controls.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from asyncflow.errors import ForeignOrigin, MisdirectedHost
from asyncflow.web.errors import SERVER
from asyncflow.web.proxies import hosts_of
from asyncflow.web.requestids import REQUEST_ID, request_id_key

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
DEFAULT_PORTS: Mapping[str, int] = {"http": 80, "https": 443, "ws": 80, "wss": 443}

#: what a listed page may ask with, beside what CORS always allows
ALLOWED_METHODS: Final = "GET, HEAD, POST, PATCH, PUT, DELETE, OPTIONS"
ALLOWED_HEADERS: Final = (
    "Authorization, Content-Type, Content-Digest, Content-Disposition, "
    "Idempotency-Key, If-Match, If-None-Match, Range, Repr-Digest, Tus-Resumable, "
    "Upload-Checksum, Upload-Complete, Upload-Concat, Upload-Defer-Length, "
    "Upload-Draft-Interop-Version, Upload-Incomplete, Upload-Length, "
    "Upload-Metadata, Upload-Offset, Want-Repr-Digest, X-HTTP-Method-Override, "
    "X-Request-Id, X-Requested-With"
)
#: what a listed page may read of an answer
EXPOSED_HEADERS: Final = (
    "Location, Upload-Offset, Upload-Length, Upload-Expires, Upload-Metadata, "
    "Upload-Concat, Upload-Defer-Length, Upload-Complete, Upload-Incomplete, "
    "Upload-Limit, Upload-Draft-Interop-Version, Repr-Digest, "
    "Tus-Resumable, Tus-Version, Tus-Extension, "
    "Tus-Max-Size, Tus-Checksum-Algorithm, Asyncflow-Job-Id, Accept-Ranges, "
    "Content-Disposition, Content-Range, ETag, Retry-After, X-Request-Id"
)
#: a browser may remember a preflight for ten minutes
PREFLIGHT_AGE_S: Final = 600

FRAME_ANCESTORS: Final = "frame-ancestors 'none'"

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """What counts as this server, and which pages of others may use it.

    *allowed_hosts* are names without a port, `*` in them stands for any run of
    characters; *allowed_origins* are such as `https://app.example.org`.
    """

    loopback_only: bool
    public_url: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: frozenset[str] = frozenset()

    def knows_host(self, value: str) -> bool:
        """Tell whether a Host header names this server; its port does not matter."""
        found = _AUTHORITY.fullmatch(value)
        if found is None:
            return False
        name = found[1].lower().rstrip(".")
        address = _address(name)
        if address is not None and (address.is_loopback or not self.loopback_only):
            return True
        if name == "localhost" or name.endswith(".localhost"):
            return True
        if self.public_url is not None and name == _bare_host(self.public_url):
            return True
        return any(fnmatchcase(name, host.lower()) for host in self.allowed_hosts)

    def lists(self, origin: str) -> bool:
        """Tell whether pages of *origin* may use this server from elsewhere."""
        return _normal(origin) in {_normal(listed) for listed in self.allowed_origins}

    def trusts(self, origin: str, *, host: str, fetch_site: str | None) -> bool:
        """Tell whether a page of *origin* may change things on the server *host*."""
        ours = _normal(origin)
        if ours is None:
            return False
        if self.lists(origin):
            return True
        if self.public_url is not None and ours == _normal(self.public_url):
            return True
        # Behind a proxy that ends TLS the scheme that we see is not the page's; the
        # browser's own word on the matter covers that.
        same = host.lower() in {ours[1], f"{ours[1]}:{DEFAULT_PORTS[ours[0]]}"}
        return same and fetch_site in {None, "same-origin", "none"}


def guard(guards: Guards) -> Middleware:
    """Return the middleware that refuses foreign hosts and pages, and does CORS."""
    # clients use few names; strangers cannot fill more than this
    knows_host = lru_cache(maxsize=256)(guards.knows_host)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        _check_host(request, knows_host)
        if _is_preflight(request):
            return _preflight(request, guards)
        _check_origin(request, guards)
        return await handler(request)

    return middleware


def install_headers(app: web.Application, guards: Guards) -> None:
    """Put the security and CORS headers on every answer of *app*."""

    async def add(request: web.Request, response: web.StreamResponse) -> None:
        _add_security(request, response, guards)
        if guards.allowed_origins:
            _add_cors(request, response, guards)
        request_id = request.get(request_id_key)
        if request_id is not None:
            response.headers.setdefault(REQUEST_ID, request_id)

    app.on_response_prepare.append(add)


def _check_host(request: web.Request, knows_host: Callable[[str], bool]) -> None:
    # Two Host headers end in the parser. HTTP/1.0 may come without one: no browser
    # speaks it, so no page can be behind it. A target in absolute form replaces it.
    named = hosts_of(request)
    if not request.raw_path.startswith(("/", "*")):
        named.append(urlsplit(request.raw_path).netloc)
    if not all(map(knows_host, named)):
        raise MisdirectedHost


def _check_origin(request: web.Request, guards: Guards) -> None:
    upgrades = hdrs.UPGRADE in request.headers
    if request.method in SAFE_METHODS and not upgrades:
        return
    origins = request.headers.getall(hdrs.ORIGIN, [])
    fetch_site = request.headers.get("Sec-Fetch-Site")
    if not origins:
        if fetch_site in {"cross-site", "same-site"}:
            raise ForeignOrigin
        return
    host = next(iter(hosts_of(request)), "")
    if len(origins) > 1 or not guards.trusts(
        origins[0], host=host, fetch_site=fetch_site
    ):
        raise ForeignOrigin


def _is_preflight(request: web.Request) -> bool:
    return (
        request.method == hdrs.METH_OPTIONS
        and hdrs.ORIGIN in request.headers
        and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    )


def _preflight(request: web.Request, guards: Guards) -> web.Response:
    if not guards.lists(request.headers[hdrs.ORIGIN]):
        raise ForeignOrigin
    headers = {
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: ALLOWED_METHODS,
        hdrs.ACCESS_CONTROL_ALLOW_HEADERS: ALLOWED_HEADERS,
        hdrs.ACCESS_CONTROL_MAX_AGE: str(PREFLIGHT_AGE_S),
    }
    return web.Response(status=204, headers=headers)


def _add_cors(
    request: web.Request, response: web.StreamResponse, guards: Guards
) -> None:
    vary = response.headers.get(hdrs.VARY)
    response.headers[hdrs.VARY] = f"{vary}, {hdrs.ORIGIN}" if vary else hdrs.ORIGIN
    origins = request.headers.getall(hdrs.ORIGIN, [])
    if len(origins) != 1 or not guards.lists(origins[0]):
        return
    response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origins[0]
    response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED_HEADERS


def _add_security(
    request: web.Request, response: web.StreamResponse, guards: Guards
) -> None:
    headers = response.headers
    headers[hdrs.SERVER] = SERVER
    headers.setdefault(hdrs.X_CONTENT_TYPE_OPTIONS, "nosniff")
    headers.setdefault("Referrer-Policy", "no-referrer")
    headers.setdefault("X-Frame-Options", "DENY")
    policy = headers.get("Content-Security-Policy")
    if policy is None:
        headers["Content-Security-Policy"] = FRAME_ANCESTORS
    elif "frame-ancestors" not in policy:
        headers["Content-Security-Policy"] = f"{policy}; {FRAME_ANCESTORS}"
    origin = request.headers.get(hdrs.ORIGIN)
    listed = origin is not None and guards.lists(origin)
    sharing = "cross-origin" if listed else "same-origin"
    headers.setdefault("Cross-Origin-Resource-Policy", sharing)


def _normal(origin: str) -> tuple[str, str] | None:
    """Return scheme and authority (without a default port), None if not an origin."""
    try:
        parts = urlsplit(origin.lower())
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    usual = port is None or port == DEFAULT_PORTS[parts.scheme]
    return parts.scheme, host if usual else f"{host}:{port}"


def _bare_host(url: str) -> str:
    host = urlsplit(url).hostname or ""
    return f"[{host}]" if ":" in host else host


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address
