"""The edge of an application: every guard in the right order, with one call.

Theory of operation
-------------------
From the outside in: `behind_proxies` notes who the client is; `named` gives the request
a name for the log; `observed` measures what the client got; `problems` turns errors of
all that follow into answers; `friendly` makes pages of those that a person is to read;
`guard` refuses foreign hosts and pages and answers preflights, which carry no token;
`authentication` finds out who is asking, `ownership` keeps them off what is somebody
else's. Headers go on in a signal, so that answers which were raised have them too.
"""

from aiohttp import web

from asyncflow.metrics import Metrics
from asyncflow.web.auth import Authenticate, TokenAuth, authentication
from asyncflow.web.errors import problems
from asyncflow.web.guards import Guards, guard, install_headers
from asyncflow.web.observe import observed
from asyncflow.web.owners import OwnerOf, ownership
from asyncflow.web.page import friendly
from asyncflow.web.proxies import Network, behind_proxies
from asyncflow.web.requestids import named


def install_edge(
    app: web.Application,
    *,
    guards: Guards,
    authenticate: Authenticate,
    metrics: Metrics,
    owner_of: OwnerOf | None = None,
    prefix: str = "",
    trusted_proxies: tuple[Network, ...] = (),
) -> None:
    """Put the guards around *app*: before its routes run, and before it is frozen.

    With *owner_of* everybody reaches only their own jobs; without, there is one owner.
    """
    secure = (guards.public_url or "").startswith("https:")
    if trusted_proxies:
        app.middlewares.append(behind_proxies(trusted_proxies))
    app.middlewares.extend(
        [
            named(),
            observed(metrics),
            problems(),
            friendly(has_token=isinstance(authenticate, TokenAuth), prefix=prefix),
            guard(guards),
            authentication(authenticate, secure_cookie=secure, prefix=prefix),
        ]
    )
    if owner_of is not None:
        app.middlewares.append(ownership(owner_of, prefix=prefix))
    install_headers(app, guards)
