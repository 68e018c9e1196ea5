"""Tells a service manager how the server is doing, where there is one to tell.

Source: sd_notify(3): datagrams of `NAME=value` lines to the socket in NOTIFY_SOCKET.
"""

import contextlib
import os
import socket

READY = "READY=1"
STOPPING = "STOPPING=1"


def notify(state: str) -> None:
    """Send *state* to the service manager, if there is one that listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    # "@" stands for the zero byte of an abstract address
    place = address.replace("@", "\0", 1) if address[0] == "@" else address
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as voice,
    ):
        voice.settimeout(1.0)
        voice.sendto(state.encode(), place)
