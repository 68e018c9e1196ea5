"""Why a request of the client did not end well: one class per meaning.

These are the caller's view of a server elsewhere; what a server itself raises is in
`asyncflow.errors`.
"""

_NOTHING_THERE = frozenset({404, 410})


class RequestFailed(Exception):
    """The server did not do what the client asked."""


class BadAddress(RequestFailed):
    """The address is not one of an HTTP server, or holds a password."""

    def __init__(self, url: str) -> None:
        # what stands before an @ may be a secret: it is neither shown nor kept
        start, at, end = url.rpartition("@")
        self.url = f"…@{end}" if at else start + end
        hint = (
            "; a user name or password is not taken in it, give a token" if at else ""
        )
        super().__init__(f"{self.url!r} is no address like http://127.0.0.1:8080{hint}")


class BadToken(RequestFailed):
    """The token is none that can be sent."""

    def __init__(self) -> None:
        # without the token, which is a secret
        super().__init__(
            "the token holds a line break, or something else that cannot be sent"
        )


class ServerUnreachable(RequestFailed):
    """No answer came: nobody listens there, or the network broke."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"no answer from {url}: {reason}")
        self.url, self.reason = url, reason


class ServerRefused(RequestFailed):
    """The server answered, and its answer is no."""

    def __init__(
        self, *, code: str, detail: str, status: int, retry_after_s: float | None = None
    ) -> None:
        super().__init__(f"{detail} ({code})")
        self.code, self.detail, self.status = code, detail, status
        self.retry_after_s = retry_after_s

    @property
    def is_absence(self) -> bool:
        """Tell whether the server says that there is no such thing (any more)."""
        return self.status in _NOTHING_THERE


class UnexpectedAnswer(RequestFailed):
    """Something answered, but not as an asyncflow server does."""

    def __init__(self, url: str, what: str) -> None:
        super().__init__(f"{url} does not answer like an asyncflow server: {what}")
        self.url = url


class SourceChanged(RequestFailed):
    """The file changed while it was being uploaded."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} changed while it was being uploaded; upload it again")
        self.name = name
