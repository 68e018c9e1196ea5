"""Who is asking: one seam, and the token that opens it.

Rules
-----
- Routes ask `require(request, scope)`; only this module looks at tokens.
- A token comes as `Authorization: Bearer`, as the cookie that visiting a page with
  `?token=` sets, or, for a WebSocket, as `?token=`.
- The cookie holds a value derived from the token, not the token, and its name is the
  server's own: cookies are shared by all ports of a host.
- No token is ever put into a log line or an error text.
"""

import hashlib
import hmac
import inspect
import ipaddress
import os
import secrets
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from asyncflow.errors import Forbidden, StartError, Unauthorized
from asyncflow.web.proxies import address_of, came_by_proxy, is_secure, was_handed_on

UPLOAD: Final = "upload"
READ: Final = "read"
#: the numbers of the whole server, which are everybody's
METRICS: Final = "metrics"
ADMIN: Final = "admin"
EVERYTHING: Final = frozenset({UPLOAD, READ, METRICS, ADMIN})

TOKEN_FILE: Final = "token"  # noqa: S105 -- the file's name
#: shorter ones can be guessed; what `ensure_token` writes has 43
MIN_TOKEN_CHARS: Final = 8
COOKIE_AGE_S: Final = 30 * 24 * 3600

#: what supervisors ask before anybody has a token
OPEN_PATHS: Final = frozenset({"/livez", "/readyz"})
#: our own scripts and styles: no secrets, and pages elsewhere load them without a token
OPEN_FOLDER: Final = "/assets/"
SOCKET_PATH: Final = "/ws"

#: how operators name what belongs to no tenant: an address needs a name
NO_TENANT: Final = "-"

TOKEN_NEEDED: Final = "This needs the server's token."  # noqa: S105 -- a sentence
WRONG_TOKEN: Final = "This is not the server's token."  # noqa: S105 -- a sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who is asking, and what they may do.

    Without the scope `admin` one reaches only jobs of one's own owner and tenant.
    Raise ValueError for the tenant `-`, which operators call those without one.
    """

    owner: str
    tenant: str = ""
    scopes: frozenset[str] = frozenset({UPLOAD, READ})
    #: nobody has said who it is: a token could open more
    is_anonymous: bool = False

    def __post_init__(self) -> None:
        """Refuse a tenant that nobody could tell from none."""
        if self.tenant == NO_TENANT:
            raise ValueError(f"no tenant is called {NO_TENANT!r}: it stands for none")


#: raises Unauthorized when nobody, or nobody known, is asking
Authenticate = Callable[[web.Request], Awaitable[Principal] | Principal]

principal_key: Final = web.RequestKey("principal", Principal)


def require(request: web.Request, scope: str) -> Principal:
    """Return who is asking.

    Raises:
        Unauthorized: nobody knows who it is, and *scope* is not for everybody.
        Forbidden: it is known, and they do not have *scope*.
    """
    principal: Principal | None = request.get(principal_key)
    if principal is not None and scope in principal.scopes:
        return principal
    if principal is None or principal.is_anonymous:
        raise Unauthorized(TOKEN_NEEDED)
    raise Forbidden(f"{principal.owner} does not have the scope {scope}")


class TokenAuth:
    """Knows one token; the owner of everything is `local`.

    With *open_locally* whoever can reach the server may upload and read single jobs,
    whose ids cannot be guessed; the token adds `admin`. Otherwise nothing goes without
    the token. *near_only* keeps that openness from other machines, for a server that
    does not know which address it listens on. *prefix* stands before every path.
    """

    def __init__(
        self,
        token: str,
        *,
        open_locally: bool,
        near_only: bool = False,
        prefix: str = "",
    ) -> None:
        if len(token) < MIN_TOKEN_CHARS:
            raise ValueError(f"a token has at least {MIN_TOKEN_CHARS} characters")
        self._token = token.encode()
        self._near_only, self._prefix = near_only, prefix
        digest = hashlib.sha256(self._token).hexdigest()
        self.cookie_name = f"asyncflow-{digest[:8]}"
        self._cookie = hmac.new(self._token, b"cookie", hashlib.sha256).hexdigest()
        anonymous = frozenset({UPLOAD, READ, METRICS}) if open_locally else frozenset()
        self._anonymous = Principal(
            owner="local", tenant="", scopes=anonymous, is_anonymous=True
        )
        self._known = Principal(owner="local", tenant="", scopes=EVERYTHING)

    async def __call__(self, request: web.Request) -> Principal:
        """Return who is asking. Raise Unauthorized for a wrong token, or none."""
        shown = _bearer(request)
        if shown is None and self._is_socket(request):
            shown = request.query.get("token")
        if shown is not None:
            if self.accepts(shown):
                return self._known
            raise Unauthorized(WRONG_TOKEN)
        # a stale cookie is the browser's habit, not somebody's claim: it says nothing
        cookie = request.cookies.get(self.cookie_name, "")
        if hmac.compare_digest(cookie.encode(errors="replace"), self._cookie.encode()):
            return self._known
        if not self._anonymous.scopes or (self._near_only and not _is_near(request)):
            raise Unauthorized(TOKEN_NEEDED)
        return self._anonymous

    def _is_socket(self, request: web.Request) -> bool:
        return request.path == self._prefix + SOCKET_PATH

    def is_visit(self, request: web.Request) -> bool:
        """Tell whether a browser comes to a page with `?token=`."""
        return (
            request.method == hdrs.METH_GET
            and not self._is_socket(request)
            and "token" in request.query
        )

    def accepts(self, shown: str) -> bool:
        """Tell whether *shown* is the token; takes as long for any wrong one."""
        return hmac.compare_digest(shown.encode(errors="replace"), self._token)

    def remember(self, request: web.Request, *, secure: bool) -> web.Response:
        """Answer a visit with `?token=`: set the cookie, go to the bare address."""
        if not self.accepts(request.query["token"]):
            raise Unauthorized(WRONG_TOKEN)
        bare = request.rel_url.without_query_params("token")
        # one slash: "//host" would lead to another server
        target = "/" + str(bare).lstrip("/")
        answer = web.Response(status=303, headers={hdrs.LOCATION: target})
        answer.headers[hdrs.CACHE_CONTROL] = "no-store"
        answer.set_cookie(
            self.cookie_name,
            self._cookie,
            max_age=COOKIE_AGE_S,
            path=self._prefix or "/",
            httponly=True,
            secure=secure or is_secure(request),
            samesite="Strict",
        )
        return answer


def authentication(
    authenticate: Authenticate, *, secure_cookie: bool = False, prefix: str = ""
) -> Middleware:
    """Return the middleware that finds out who is asking, before any route runs.

    *secure_cookie*: browsers reach the server by https, whatever we see ourselves.
    *prefix* stands before every path.
    """
    open_paths = {prefix + path for path in OPEN_PATHS}
    if prefix:
        # without the slash at its end: leads to the page, and says nothing else
        open_paths.add(prefix)
    open_folder = prefix + OPEN_FOLDER

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.path
        if path in open_paths or path.startswith(open_folder):
            return await handler(request)
        if isinstance(authenticate, TokenAuth) and authenticate.is_visit(request):
            return authenticate.remember(request, secure=secure_cookie)
        request[principal_key] = await _asking(authenticate, request)
        return await handler(request)

    return middleware


async def _asking(authenticate: Authenticate, request: web.Request) -> Principal:
    """Return who is asking; *authenticate* may be somebody else's function."""
    said: object = authenticate(request)
    found = await said if inspect.isawaitable(said) else said
    if found is None:
        raise Unauthorized
    if not isinstance(found, Principal):
        kind = type(found).__name__
        raise TypeError(f"authenticate returned a {kind}; accepted: a Principal")
    return found


def _is_near(request: web.Request) -> bool:
    """Tell whether the client is this machine, as far as is known for certain."""
    if was_handed_on(request) and not came_by_proxy(request):
        return False
    try:
        return ipaddress.ip_address(address_of(request) or "").is_loopback
    except ValueError:
        # a UNIX socket has no address: its file's mode says who may connect
        return request.transport is not None and not request.remote


def _bearer(request: web.Request) -> str | None:
    value = request.headers.get(hdrs.AUTHORIZATION)
    if value is None:
        return None
    scheme, _, token = value.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


# ----- the token of a first start


def ensure_token(data_dir: Path) -> str:
    """Return the token kept in *data_dir*, made there on the first start.

    The file is for its owner only, and never half-written: it appears whole, and of two
    starts at once one wins and both return its token. A folder made here is 0700; one
    that was there keeps its mode. Raise StartError for a file others could read.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = data_dir / TOKEN_FILE
    try:
        return _read_token(path)
    except FileNotFoundError:
        _write_token(path, secrets.token_urlsafe(32))
        return _read_token(path)


def _read_token(path: Path) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StartError(f"the token file {path} cannot be read: {error}") from error
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            raise StartError(f"the token file {path} is not an ordinary file")
        if facts.st_mode & 0o077:
            raise StartError(f"others can read {path}: run chmod 600 {path}")
        token = os.read(fd, 4096).decode("ascii", "replace").strip()
    finally:
        os.close(fd)
    if len(token) < MIN_TOKEN_CHARS:
        raise StartError(f"the token file {path} holds no token: remove it")
    return token


def _write_token(path: Path, token: str) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "w", encoding="ascii") as file:  # noqa: PTH123 -- a descriptor
            file.write(token + "\n")
            file.flush()
            os.fsync(fd)
        # a link, not a rename: it fails when somebody else was first
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
