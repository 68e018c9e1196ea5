"""Load the named statements of the `.sql` files.

A file is a list of statements, each opened by `-- name: some_name` and a comment that
says what it is for.
"""

import re
from importlib import resources

_NAME = re.compile(r"^-- name: ([a-z_]+)\n", re.MULTILINE)


def load(*files: str) -> dict[str, str]:
    """Return the statements of *files* (in `asyncflow/db/sql/`) by name.

    Raises:
        ValueError: two statements have the same name.
    """
    found: dict[str, str] = {}
    for file in files:
        text = resources.files("asyncflow.db").joinpath("sql", file).read_text("utf-8")
        parts = _NAME.split(text)
        for name, statement in zip(parts[1::2], parts[2::2], strict=True):
            if name in found:
                raise ValueError(f"two statements are called {name}")
            found[name] = statement.strip().rstrip(";")
    return found


def migrations() -> list[str]:
    """Return the numbered migration scripts, oldest first."""
    folder = resources.files("asyncflow.db").joinpath("migrations")
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".sql"))
    return [folder.joinpath(name).read_text("utf-8") for name in names]
