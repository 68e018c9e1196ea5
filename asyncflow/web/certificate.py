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
        try:
            self.context = self._latest = self._read()
        except (OSError, ssl.SSLError) as bad:
            raise StartError(
                f"https cannot be served by {cert} and {key}: {bad}"
            ) from bad
        self.context.sni_callback = self._take_latest

    def keep_renewed(self) -> None:
        """Look again and again, as long as the loop runs, whether the files changed."""
        self._renew()
        asyncio.get_running_loop().call_later(LOOK_EVERY_S, self.keep_renewed)

    def _renew(self) -> None:
        """Serve what the files hold now, if they changed and belong together."""
        stamps = self._stamps()
        if stamps == self._seen:
            return
        self._seen = stamps
        try:
            self._latest = self._read()
        except (OSError, ssl.SSLError) as bad:
            log.warning("certificate.not_renewed", error=str(bad))
        else:
            log.info("certificate.renewed", cert=str(self._cert))

    def _read(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["http/1.1"])
        # a key with a passphrase would be asked for on the terminal
        context.load_cert_chain(self._cert, self._key, password="")
        return context

    def _take_latest(
        self,
        connection: ssl.SSLSocket | ssl.SSLObject,
        _name: str | None,
        _context: ssl.SSLContext,
    ) -> None:
        # a context keeps one certificate of each kind of key, and would offer old ones
        connection.context = self._latest

    def _stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(one) for one in (self._cert, self._key))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
