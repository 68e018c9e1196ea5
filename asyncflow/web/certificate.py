"""What https is served by: a certificate that is read again when its files change."""

import asyncio
import ssl
from pathlib import Path

import structlog

from asyncflow.errors import StartError

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 5.0


class Certificate:
    """A certificate with its key, in *context*; connections that are open keep theirs.

    Raises:
        StartError: the certificate or its key cannot be used.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert = cert
        self._key = key
        self._seen = self._stamps()
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.set_alpn_protocols(["http/1.1"])
        try:
            self._load_into(self.context)
        except (OSError, ssl.SSLError) as bad:
            raise StartError(
                f"https cannot be served by {cert} and {key}: {bad}"
            ) from bad

    def keep_renewed(self) -> None:
        """Look again and again, as long as the loop runs, whether the files changed."""
        self._renew()
        asyncio.get_running_loop().call_later(LOOK_EVERY_S, self.keep_renewed)

    def _renew(self) -> None:
        """Serve what the files hold now, if they changed and belong together.

        On the loop, since a context must not change while a connection begins.
        """
        stamps = self._stamps()
        if stamps == self._seen:
            return
        self._seen = stamps
        try:
            # a key of another certificate would leave a context with neither
            self._load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
            self._load_into(self.context)
        except (OSError, ssl.SSLError) as bad:
            log.warning("certificate.not_renewed", error=str(bad))
        else:
            log.info("certificate.renewed", cert=str(self._cert))

    def _load_into(self, context: ssl.SSLContext) -> None:
        # a key with a passphrase would be asked for on the terminal
        context.load_cert_chain(self._cert, self._key, password="")

    def _stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(one) for one in (self._cert, self._key))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
