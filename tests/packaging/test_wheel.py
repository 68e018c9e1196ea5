"""What is shipped: built as for a release, installed where nothing else is."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(300)  # installs every dependency


def build(source: Path, kind: str, target: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", target],
        cwd=source,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (made,) = target.iterdir()
    return made


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the programs of an environment with nothing in it but the wheel."""
    place = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(place, with_pip=True)
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    done = subprocess.run(
        [*pip, "-c", ROOT / "constraints.txt", wheel],
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return place / "bin"


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {
            name: archive.read(name)
            for name in archive.namelist()
            if not name.endswith("/RECORD")
        }


def known_files(*folders: str) -> set[str]:
    """Return every file in *folders* that git knows or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *folders],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return {name for name in listed if (ROOT / name).is_file()}


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel: Path) -> None:
    names = set(contents(wheel))
    inside = {name for name in names if name.startswith("asyncflow/")}
    assert inside == known_files("asyncflow")
    others = {name.partition("/")[2] for name in names - inside}
    assert {name for name in others if name.startswith("data/")} == {
        "data/share/asyncflow/alerts.yml",
        "data/share/asyncflow/grafana.json",
    }
    for wanted in ("py.typed", "web/static/index.html", "db/sql/jobs.sql"):
        assert f"asyncflow/{wanted}" in names


def test_the_wheel_names_its_licence_and_its_command(wheel: Path) -> None:
    files = contents(wheel)
    (meta,) = [text for name, text in files.items() if name.endswith("/METADATA")]
    (entry,) = [text for name, text in files.items() if name.endswith("points.txt")]
    assert b"License-Expression: MIT" in meta
    assert b"Name: asyncflow-server" in meta
    assert b"asyncflow = asyncflow.__main__:run" in entry
    assert any(name.endswith("/licenses/LICENSE") for name in files)


def test_the_sdist_builds_the_same_wheel(
    sdist: Path, wheel: Path, tmp_path: Path
) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    again = build(source, "wheel", tmp_path / "wheel")
    assert again.name == wheel.name
    assert contents(again) == contents(wheel)


def test_what_the_dockerfile_copies_builds_the_same_wheel(
    wheel: Path, tmp_path: Path
) -> None:
    let_through = [
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if not line.startswith("COPY ") or "--from" in line:
            continue
        *sources, target = line.split()[1:]
        for source in sources:
            assert source in let_through
            place = tmp_path / target.removeprefix("/")
            place = place / Path(source).name if target.endswith("/") else place
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                skip = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, place, ignore=skip)
            else:
                shutil.copy(ROOT / source, place)
    made = build(tmp_path / "src", "wheel", tmp_path / "wheel")
    assert contents(made) == contents(wheel)


def test_the_sdist_holds_what_belongs_to_the_project_and_nothing_beside_it(
    tmp_path: Path,
) -> None:
    clone, known = tmp_path / "clone", known_files()
    for name in known:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    for stray in ("token.txt", "uploads/store/a.jpg", "env/pyvenv.cfg"):
        (clone / stray).parent.mkdir(parents=True, exist_ok=True)
        (clone / stray).write_text("somebody's own")
    with tarfile.open(build(clone, "sdist", tmp_path / "made")) as archive:
        names = {one.name.partition("/")[2] for one in archive if one.isfile()}
    assert names == known | {"PKG-INFO"}


def run(
    program: Path, *argv: str, here: Path, **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *argv],
        capture_output=True,
        text=True,
        check=False,
        cwd=here,
        env={"PATH": os.defpath, "HOME": str(here), **env},
        timeout=120,
    )


def test_the_installed_demo_works_in_an_empty_home(
    installed: Path, tmp_path: Path
) -> None:
    done = run(
        *(installed / "asyncflow", "demo", "--exit", "--port", "0"),
        here=tmp_path,
        ASYNCFLOW_FILL_LEVEL="100",
    )
    assert done.returncode == 0, done.stderr
    assert "COMPLETED" in done.stdout
    # what it said it would make, and where uploads are remembered
    assert {path.name for path in tmp_path.iterdir()} == {"data", ".local"}


def test_the_installed_package_is_typed_and_finds_its_own_files(
    installed: Path, tmp_path: Path
) -> None:
    code = (
        "import asyncflow; from importlib.resources import files; "
        "from asyncflow.db.queries import migrations; "
        "here = files('asyncflow'); "
        "print(here, (here / 'py.typed').is_file(), len(migrations()) > 0)"
    )
    done = run(installed / "python", "-c", code, here=tmp_path)
    where, *found = done.stdout.split()
    assert Path(where).is_relative_to(installed.parent)
    assert found == ["True", "True"]


def test_the_installed_program_misses_no_dependency(
    installed: Path, tmp_path: Path
) -> None:
    done = run(installed / "python", "-m", "pip", "check", here=tmp_path)
    assert done.returncode == 0, done.stdout
