import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncflow.cli.picture import paint
from tests.client.small_server import SmallServer, running


@pytest.fixture(autouse=True)
def _place_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in an empty folder, with nobody's settings or state."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("ASYNCFLOW_URL", "ASYNCFLOW_TOKEN", "ASYNCFLOW_DATA_DIR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallServer]:
    with running(SmallServer()) as small:
        monkeypatch.setenv("ASYNCFLOW_URL", small.url)
        yield small


@pytest.fixture
def photo() -> Path:
    path = Path("photo.jpg")
    path.write_bytes(os.urandom(200_000))
    return path


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("demo") / "picture.jpg")
