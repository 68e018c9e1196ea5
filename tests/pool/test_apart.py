"""What is the server's own stays so, although code that workers run lies around it."""

from pathlib import Path

import pytest

from asyncflow import sandbox
from asyncflow.errors import StartError
from asyncflow.jobs import Verdict
from asyncflow.pool import Pool
from tests.pool.conftest import Crew
from tests.pool.test_walls import needs_landlock

FUNCTION = """
import os
from pathlib import Path

from asyncflow.processors.base import Result, Work, processor

HERE = Path(__file__).parent
PRIVATE = ("data/token", "data/slots", "data", ".env", ".", "link/token")


@processor("reaches", accepts=("*",))
def reaches(work: Work) -> Result:
    from mixed_code.later import WORD

    found = []
    for name in PRIVATE:
        try:
            path = HERE / name
            os.listdir(path) if path.is_dir() else path.read_text()
            found.append(name)
        except PermissionError:
            pass
    texts = [HERE / "words.txt", HERE / "more" / "words.txt"]
    return Result(facts={
        "found": found, "word": WORD, "texts": [one.read_text() for one in texts],
    })
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of functions that has the server's folder and settings in it."""
    folder = tmp_path / "mixed_code"
    (folder / "more").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "__init__.py").write_text(FUNCTION)
    (folder / "later.py").write_text("WORD = 'loaded'")
    (folder / "words.txt").write_text("some")
    (folder / "more" / "words.txt").write_text("more")
    (folder / "data" / "token").write_text("secret")
    (folder / ".env").write_text("ASYNCFLOW_TOKEN=secret")
    (folder / "link").symlink_to("data")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def new_pool(slots: Path, *private: Path) -> Pool:
    return Pool(size=1, folder=slots, private=private, modules=("mixed_code",))


@needs_landlock
async def test_data_and_settings_in_a_folder_of_code_are_not_read(
    package: Path, tmp_path: Path
) -> None:
    pool = new_pool(package / "data" / "slots", package / "data", package / ".env")
    await pool.start()
    try:
        source = tmp_path / "blob"
        source.write_text("the file")
        outcome = await Crew(pool=pool, source=source).run("reaches")
    finally:
        await pool.close()

    assert outcome.verdict is Verdict.DONE, outcome
    assert outcome.facts["found"] == []
    assert outcome.facts["word"] == "loaded"
    assert outcome.facts["texts"] == ["some", "more"]


@needs_landlock
async def test_code_that_lies_in_the_data_folder_itself_is_refused(
    package: Path,
) -> None:
    pool = new_pool(package / "slots", package)

    with pytest.raises(StartError, match=f"read {package}, .* different folders"):
        await pool.start()


def test_a_folder_without_anything_private_is_read_as_a_whole(package: Path) -> None:
    beside = {str(package.parent / "other"), f"{package}-2/data"}

    assert sandbox.apart(str(package), beside) == [str(package)]


def test_the_way_to_what_is_private_is_left_out_and_links_are_not_followed(
    package: Path,
) -> None:
    (package / "more" / "deep" / "data").mkdir(parents=True)
    (package / "more" / "deep" / "beside").touch()
    private = {str(package / "more" / "deep" / "data"), str(package / ".env")}

    assert {
        Path(one).relative_to(package)
        for one in map(Path, sandbox.apart(str(package), private))
    } == {
        Path("__init__.py"),
        Path("later.py"),
        Path("words.txt"),
        Path("data"),
        Path("more/words.txt"),
        Path("more/deep/beside"),
    }


LATE = """
from asyncflow.processors.base import Result, processor


@processor("imports-late", accepts=("*",))
def imports_late(work):
    import late_helper

    return Result()
"""


@needs_landlock
async def test_a_module_beside_that_only_a_function_imports_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_module.py").write_text(LATE)
    (tmp_path / "late_helper.py").touch()
    source = tmp_path / "blob"
    source.write_text("the file")
    monkeypatch.syspath_prepend(str(tmp_path))
    pool = Pool(size=1, folder=tmp_path / "slots", modules=("late_module",))
    await pool.start()
    try:
        outcome = await Crew(pool=pool, source=source).run("imports-late")
    finally:
        await pool.close()

    assert outcome.code == "error"
    assert "late_helper.py" in outcome.cause
    assert "import it at the top of the module" in outcome.cause
