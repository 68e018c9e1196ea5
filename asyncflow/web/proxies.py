"""What a request was before a reverse proxy of ours handed it on.

Rules
-----
- Forwarded headers are believed only on a connection from a trusted address: anybody
  else can write anything into them.
- The client is the rightmost address that is not itself a trusted proxy: what stands
  left of it was said by the client.
- `X-Forwarded-*` and `Forwarded` (RFC 7239) count alike; where both are there and
  differ on who the client is, neither is believed: one of them is the client's own.
- What cannot be read counts as not said.
- A client of which a proxy does not say for certain who it is, is nobody: it never
  passes for the proxy, which may be on this very machine.
- A forwarded host stands beside Host, never in its place: a page behind a name of its
  own can send both from the proxy's machine, and must be refused for either.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d+)?|([0-9.]+):\d+")
_SCHEMES: Final = frozenset({"http", "https"})
#: a chain longer than this is nobody's set-up
_MAX_HOPS: Final = 20
_OF_PROXIES: Final = ("Forwarded", "X-Forwarded-For", "X-Real-IP", hdrs.VIA)
#: names the clients of trusted proxies that are not known: no address is like it
NOBODY: Final = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a request came from, as far as it is believed; None: as we see it."""

    address: str = NOBODY
    scheme: str | None = None
    host: str | None = None


origin_key: Final = web.RequestKey("origin", Origin)


def networks(words: Iterable[str]) -> tuple[Network, ...]:
    """Return addresses and networks such as 10.0.0.0/8. Raise ValueError."""
    return tuple(ipaddress.ip_network(word, strict=False) for word in words)


def behind_proxies(trusted: tuple[Network, ...]) -> Middleware:
    """Return the middleware that notes where requests came from; it is outermost."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if _is_trusted(request.remote or "", trusted):
            request[origin_key] = _origin(request, trusted)
        return await handler(request)

    return middleware


def address_of(request: web.BaseRequest) -> str | None:
    """Return the client's address, or NOBODY; None: it has none (a UNIX socket)."""
    origin: Origin | None = request.get(origin_key)
    return request.remote if origin is None else origin.address


def peer_of(request: web.BaseRequest) -> str | None:
    """Return what is one client's for certain: an address, or the /64 around it.

    Every IPv6 host has a /64 at least, and can choose any address in it.
    """
    address = address_of(request)
    return None if address is None else _peer(address)


@lru_cache(maxsize=1024)
def _peer(address: str) -> str:
    try:
        found = _plain(ipaddress.ip_address(address))
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


def came_by_proxy(request: web.BaseRequest) -> bool:
    """Tell whether a trusted proxy handed the request on."""
    return request.get(origin_key) is not None


def was_handed_on(request: web.BaseRequest) -> bool:
    """Tell whether a request says that a proxy handed it on, trusted or not."""
    return any(name in request.headers for name in _OF_PROXIES)


def is_secure(request: web.BaseRequest) -> bool:
    """Tell whether the client speaks https, to us or to our proxy."""
    origin: Origin | None = request.get(origin_key)
    if origin is not None and origin.scheme is not None:
        return origin.scheme == "https"
    return request.secure


def hosts_of(request: web.BaseRequest) -> list[str]:
    """Return the hosts that the request names, what the client asked for first."""
    named = list(request.headers.getall(hdrs.HOST, []))
    origin: Origin | None = request.get(origin_key)
    if origin is not None and origin.host is not None:
        named.insert(0, origin.host)
    return named


def _is_trusted(address: str, trusted: tuple[Network, ...]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(_plain(found) in network for network in trusted)


def _plain(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for, or the address itself."""
    return getattr(address, "ipv4_mapped", None) or address


def _origin(request: web.Request, trusted: tuple[Network, ...]) -> Origin:
    hops = _elements(request)
    chains = [[hop.get("for", "") for hop in hops], _list(request, "X-Forwarded-For")]
    clients = {_client(chain, trusted) for chain in chains if any(chain)}
    if len(clients) > 1:
        return Origin()
    last = hops[-1] if hops else {}
    scheme = _last(request, "X-Forwarded-Proto") or last.get("proto", "")
    host = _last(request, "X-Forwarded-Host") or last.get("host", "")
    return Origin(
        address=next(iter(clients), NOBODY),
        scheme=scheme.lower() if scheme.lower() in _SCHEMES else None,
        host=host if _HOST.fullmatch(host) else None,
    )


def _client(said: list[str], trusted: tuple[Network, ...]) -> str:
    """Return the rightmost address that is no proxy of ours, or NOBODY.

    Where all are ours it is the first one: a program on the proxy's own machine.
    """
    found = None
    for text in reversed(said[-_MAX_HOPS:]):
        found = _address(text)
        if found is None or not _is_trusted(found, trusted):
            return found or NOBODY
    return NOBODY if found is None or len(said) > _MAX_HOPS else found


def _address(text: str) -> str | None:
    """Return the bare address in `1.2.3.4`, `1.2.3.4:80` or `[::1]:80`."""
    with_port = _WITH_PORT.fullmatch(text)
    bare = (with_port[1] or with_port[2]) if with_port else text
    try:
        return str(_plain(ipaddress.ip_address(bare)))
    except ValueError:
        return None


def _list(request: web.Request, name: str) -> list[str]:
    values = ",".join(request.headers.getall(name, []))
    return [part.strip() for part in values.split(",") if part.strip()]


def _last(request: web.Request, name: str) -> str:
    found = _list(request, name)
    return found[-1] if found else ""


def _elements(request: web.Request) -> list[dict[str, str]]:
    """Return the elements of Forwarded, each as a dictionary."""
    found = []
    for element in _list(request, "Forwarded"):
        pairs = (pair.partition("=") for pair in element.split(";"))
        found.append({k.strip().lower(): v.strip().strip('"') for k, _, v in pairs})
    return found
