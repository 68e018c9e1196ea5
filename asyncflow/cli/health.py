"""`asyncflow health`: does the server of these settings work? For supervisors."""

import http.client
import ipaddress
import json
import os
import ssl
from pathlib import Path

import click

from asyncflow.cli.flags import SettingsRefused
from asyncflow.config import Settings, load
from asyncflow.errors import BadSettings

WITHIN_S = 4.0


@click.command()
@click.option("--port", type=int, help="Where it listens, if not as the settings say.")
def health(*, port: int | None) -> int:
    """Ask the server on this machine whether it is ready; end with 1 if it is not.

    Address, port and https are taken from the settings, as `asyncflow serve` has them.
    """
    try:
        # whether it may be public is for the server to judge: it may have been told to
        # by a flag, or have a token that we were not given
        asked = {"allow_public": True}
        settings = load(asked, env=os.environ, cwd=Path.cwd())
    except BadSettings as error:
        raise SettingsRefused(error.detail) from error
    try:
        status, body = _ask(settings, port or settings.port)
    except (OSError, http.client.HTTPException) as error:
        raise click.ClickException(f"no answer: {error}") from error
    click.echo(_in_words(status, body))
    return 0 if status == http.client.OK else 1


def _ask(settings: Settings, port: int) -> tuple[int, bytes]:
    host = _near(settings.host)
    link: http.client.HTTPConnection
    if settings.tls_cert is None:
        link = http.client.HTTPConnection(host, port, timeout=WITHIN_S)
    else:
        # it names the server as others know it; this is the machine itself
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        link = http.client.HTTPSConnection(
            host, port, timeout=WITHIN_S, context=context
        )
    try:
        link.request("GET", "/readyz", headers={"Host": "localhost"})
        answer = link.getresponse()
        return answer.status, answer.read()
    finally:
        link.close()


def _near(host: str) -> str:
    """Return an address of this machine at which a server on *host* listens."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host
    if not address.is_unspecified:
        return str(address)
    return "127.0.0.1" if address.version == 4 else "::1"  # noqa: PLR2004 -- IPv4


def _in_words(status: int, body: bytes) -> str:
    if status == http.client.OK:
        return "ready"
    try:
        checks = json.loads(body)["checks"]
        bad = {name: one["reason"] for name, one in checks.items() if not one["ok"]}
    except (ValueError, KeyError, TypeError):
        return f"not ready: it answered {status}"
    return "not ready: " + "; ".join(f"{name}: {why}" for name, why in bad.items())
