import hashlib
import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from asyncflow.config import load
from asyncflow.errors import BadSettings, StartError
from asyncflow.server import run
from tests.server_process import ServerProcess, serving

SIZE = 5_000_001


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA
) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("localhost", "127.0.0.1")
    cert, key = folder / "cert.pem", folder / "key.pem"
    for blob in issued.cert_chain_pems:
        blob.write_to_path(cert, append=True)
    issued.private_key_pem.write_to_path(key)
    settings = {"tls_cert": str(cert), "tls_key": str(key)}
    with serving(folder / "data", **settings) as found:
        yield found


@pytest.fixture
def https(
    server: ServerProcess, authority: trustme.CA
) -> Iterator[http.client.HTTPSConnection]:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    port = int(server.url.rpartition(":")[2])
    line = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
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


def test_plain_http_is_not_spoken(server: ServerProcess) -> None:
    line = http.client.HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2]))
    line.request("GET", "/livez")
    with pytest.raises((http.client.BadStatusLine, ConnectionError)):
        line.getresponse()
    line.close()


def test_a_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="tls_cert and tls_key together"):
        load({"tls_cert": "cert.pem"}, env={}, cwd=tmp_path)


def test_files_that_are_no_certificate_are_named(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nothing")
    files = {"tls_cert": "cert.pem", "tls_key": "missing.pem"}
    settings = load({**files, "port": 0}, env={}, cwd=tmp_path)
    with pytest.raises(StartError, match=r"cert\.pem"):
        run(settings)
