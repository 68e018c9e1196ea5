import hashlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import trustme

from asyncflow.config import load
from asyncflow.errors import BadSettings, StartError
from asyncflow.server import run
from asyncflow.web.limits import MAX_REFUSED
from tests.server_process import ServerProcess, serving
from tests.web.live import needs_root, until

SIZE = 5_000_001


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA
) -> Iterator[ServerProcess]:
    settings = certified(tmp_path_factory.mktemp("tls"), authority)
    with serving(tmp_path_factory.mktemp("tls") / "data", **settings) as found:
        yield found


def certified(
    folder: Path,
    authority: trustme.CA,
    key_type: trustme.KeyType = trustme.KeyType.ECDSA,
) -> dict[str, str]:
    """Return the settings of a server that speaks https."""
    issued = authority.issue_cert("localhost", "127.0.0.1", key_type=key_type)
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(b"".join(one.bytes() for one in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    return {"tls_cert": str(cert), "tls_key": str(key)}


def certificate_of(server: ServerProcess) -> str:
    port = int(server.url.rpartition(":")[2])
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=30)


def dial(server: ServerProcess, authority: trustme.CA) -> http.client.HTTPSConnection:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    port = int(server.url.rpartition(":")[2])
    return http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)


@pytest.fixture
def https(
    server: ServerProcess, authority: trustme.CA
) -> Iterator[http.client.HTTPSConnection]:
    line = dial(server, authority)
    yield line
    line.close()


def test_the_banner_says_https(server: ServerProcess) -> None:
    assert server.url.startswith("https://")


def test_a_large_file_goes_in_and_comes_out_on_one_connection(
    https: http.client.HTTPSConnection,
) -> None:
    data = hashlib.shake_128(b"tls").digest(SIZE)
    https.request("PUT", "/upload/noise.bin", body=data)
    answer = https.getresponse()
    job = json.load(answer)["jobId"]
    assert answer.status == 202
    headers = {"Tus-Resumable": "1.0.0"}
    https.request("HEAD", f"/files/{job}", headers=headers)
    answer = https.getresponse()
    answer.read()
    assert answer.headers["Upload-Offset"] == str(SIZE)


def test_the_cookie_is_only_for_https(
    server: ServerProcess, https: http.client.HTTPSConnection
) -> None:
    https.request("GET", f"/?token={server.token}")
    answer = https.getresponse()
    answer.read()
    assert "secure" in answer.headers["Set-Cookie"].lower()


def test_who_breaks_off_a_large_file_is_a_client_that_has_gone(
    server: ServerProcess, authority: trustme.CA
) -> None:
    line = dial(server, authority)
    line.putrequest("PUT", "/upload/gone.bin")
    line.putheader("Content-Length", str(3 << 20))
    line.endheaders()
    line.send(bytes(1 << 20))
    line.close()

    until(lambda: '"status": 499' in server.log())
    assert "http.unexpected" not in server.log()


def test_plain_http_is_not_spoken(server: ServerProcess) -> None:
    line = http.client.HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2]))
    line.request("GET", "/livez")
    with pytest.raises((http.client.BadStatusLine, ConnectionError)):
        line.getresponse()
    line.close()


def sockets_of(server: ServerProcess) -> int:
    count = 0
    for fd in Path(f"/proc/{server.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            count += str(fd.readlink()).startswith("socket:")
    return count


@needs_root
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_who_never_says_hello_keeps_nobody_out(
    tmp_path: Path, authority: trustme.CA, loop: str
) -> None:
    limits = {"max_connections": "10", "header_timeout": "60s", "loop": loop}
    settings = {**certified(tmp_path, authority), **limits}
    with serving(tmp_path / "data", **settings) as server, ExitStack() as stack:
        first = dial(server, authority)
        stack.callback(first.close)
        first.request("GET", "/livez")
        assert first.getresponse().read()
        before = sockets_of(server)
        port = int(server.url.rpartition(":")[2])
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))
            for _ in range(200)
        ]
        # the oldest ones have given way
        assert [one.recv(1) for one in idle[:100]] == [b""] * 100

        assert sockets_of(server) <= before + 10 + MAX_REFUSED
        for line in (first, dial(server, authority)):
            stack.callback(line.close)
            line.request("GET", "/livez")
            answer = line.getresponse()
            assert (answer.status, bool(answer.read())) == (200, True)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_renewed_certificate_is_served_without_a_restart(
    tmp_path: Path, authority: trustme.CA, loop: str
) -> None:
    settings = {**certified(tmp_path, authority), "loop": loop}
    with serving(tmp_path / "data", **settings) as server, ExitStack() as stack:
        first = certificate_of(server)
        line = dial(server, authority)
        stack.callback(line.close)
        line.request("GET", "/livez")
        assert line.getresponse().read()

        # a key that is not (yet) the certificate's changes nothing
        other = authority.issue_cert("localhost").private_key_pem
        other.write_to_path(tmp_path / "key.pem")
        until(lambda: "certificate.not_renewed" in server.log())
        assert certificate_of(server) == first
        certified(tmp_path, authority, trustme.KeyType.RSA)
        until(lambda: certificate_of(server) != first)

        # who was connected stays connected, whoever comes trusts the new one
        for one in (line, dial(server, authority)):
            stack.callback(one.close)
            one.request("GET", "/livez")
            assert one.getresponse().status == 200


def test_one_too_many_is_told_so(tmp_path: Path, authority: trustme.CA) -> None:
    settings = {**certified(tmp_path, authority), "max_connections": "2"}
    with serving(tmp_path / "data", **settings) as server, ExitStack() as stack:
        for status in (200, 200, 503):
            line = dial(server, authority)
            stack.callback(line.close)
            line.request("GET", "/livez")
            assert line.getresponse().status == status


def test_a_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="tls_cert and tls_key together"):
        load({"tls_cert": "cert.pem"}, env={}, cwd=tmp_path)


def test_files_that_are_no_certificate_are_named(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nothing")
    files = {"tls_cert": "cert.pem", "tls_key": "missing.pem"}
    settings = load({**files, "port": 0}, env={}, cwd=tmp_path)
    with pytest.raises(StartError, match=r"cert\.pem"):
        run(settings)
