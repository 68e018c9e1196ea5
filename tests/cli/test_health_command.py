"""`asyncflow health`, as a container or a supervisor asks it."""

import os
import subprocess
import sys
from pathlib import Path

import trustme

from tests.server_process import ServerProcess, serving


def health(folder: Path, *words: str, **settings: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "asyncflow", "health", *words],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **settings},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def port_of(server: ServerProcess) -> str:
    return server.url.rpartition(":")[2]


def test_a_server_that_works_is_ready(tmp_path: Path) -> None:
    with serving(tmp_path / "data", workers="1", token="a-token-of-ours") as server:
        code, said = health(
            tmp_path,
            ASYNCFLOW_PORT=port_of(server),
            # as the image has it: everybody's address
            ASYNCFLOW_HOST="0.0.0.0",  # noqa: S104 -- nobody listens here
            ASYNCFLOW_TOKEN="a-token-of-ours",
        )

        assert (code, said) == (0, "ready\n")


def test_whoever_asks_needs_neither_the_token_nor_the_flags_of_the_server(
    tmp_path: Path,
) -> None:
    with serving(tmp_path / "data", workers="1", token="a-token-of-ours") as server:
        code, said = health(
            tmp_path,
            ASYNCFLOW_PORT=port_of(server),
            ASYNCFLOW_HOST="0.0.0.0",  # noqa: S104 -- nobody listens here
        )

        assert (code, said) == (0, "ready\n")


def test_a_server_with_a_certificate_is_asked_over_https(tmp_path: Path) -> None:
    made = trustme.CA().issue_cert("files.example.org")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made.cert_chain_pems[0].write_to_path(cert)
    made.private_key_pem.write_to_path(key)
    tls = {"tls_cert": str(cert), "tls_key": str(key)}
    server = ServerProcess(data_dir=tmp_path / "data", settings=tls).start()
    try:
        named = {f"ASYNCFLOW_{name.upper()}": path for name, path in tls.items()}
        assert health(tmp_path, "--port", port_of(server), **named) == (0, "ready\n")
    finally:
        server.stop()


def test_where_nobody_listens_nobody_is_ready(tmp_path: Path) -> None:
    code, said = health(tmp_path, "--port", "1")

    assert code == 1
    assert "no answer" in said
