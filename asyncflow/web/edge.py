"""The edge of an application: every guard in the right order, with one call.

Theory of operation
-------------------
From the outside in: `observed` measures what the client got; `problems` turns errors
of all that follow into answers; `guard` refuses foreign hosts and pages and answers
preflights, which carry no token; `authentication` finds out who is asking. Headers go
on in a signal, so that answers which were raised have them too.
"""

from aiohttp import web

from asyncflow.metrics import Metrics
from asyncflow.web.auth import Authenticate, authentication
from asyncflow.web.errors import problems
from asyncflow.web.guards import Guards, guard, install_headers
from asyncflow.web.observe import observed


def install_edge(
    app: web.Application,
    *,
    guards: Guards,
    authenticate: Authenticate,
    metrics: Metrics,
) -> None:
    """Put the guards around *app*: before its routes run, and before it is frozen."""
    secure = (guards.public_url or "").startswith("https:")
    app.middlewares.extend(
        [
            observed(metrics),
            problems(),
            guard(guards),
            authentication(authenticate, secure_cookie=secure),
        ]
    )
    install_headers(app, guards)
