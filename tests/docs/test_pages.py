"""Pages that can be checked against the program: words, states, commands, examples."""

import ast
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

import asyncflow
from asyncflow import __version__, jobs, uploads
from asyncflow.cli.app import app as root_command
from tests.docs.pages import DOCS, PACKAGE, ROOT, all_pages, blocks, page

WORDS = [
    "attempt",
    "blob",
    "chunk",
    "consumer",
    "dead letter",
    "derivative",
    "event",
    "facts",
    "gate",
    "job",
    "key",
    "lane",
    "lease",
    "offset",
    "pipeline",
    "plan",
    "processor",
    "replay",
    "run",
    "step",
    "store",
    "task",
    "token",
    "upload",
    "worker",
]


def glossary() -> list[str]:
    return re.findall(r"^(.+)\n: ", page("glossary.md"), re.MULTILINE)


def test_every_word_of_ours_is_in_the_glossary_once() -> None:
    assert glossary() == WORDS


def test_every_word_of_the_glossary_is_one_that_the_program_uses() -> None:
    source = "\n".join(p.read_text(encoding="utf-8") for p in PACKAGE.rglob("*.py"))
    assert [word for word in glossary() if word.split()[0] not in source] == []


def test_every_state_is_explained() -> None:
    text = page("explanation/state-machines.md")
    states = [*jobs.JobState, *jobs.StepState, uploads.UploadState.RECEIVING]
    assert [state for state in states if f"`{state}`" not in text] == []


def test_the_diagrams_show_every_move(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    import generated  # noqa: PLC0415 -- found by the line above

    text = page("explanation/state-machines.md")
    for name, machine in generated.MACHINES.items():
        assert f"```{{states}} {name}\n" in text
        picture = generated.diagram(machine)
        pairs = {(a, b) for a, _, b in generated.moves(machine)}
        assert picture.count("<path") == len(pairs)
        assert picture.count("<rect") == len(machine)


def test_the_layers_are_those_that_are_checked() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    checked = [re.sub(r"[()]", "", one) for one in contracts[0]["layers"]]
    (shown,) = [
        block
        for block in blocks(page("explanation/architecture.md"), "text")
        if block.startswith("testing")
    ]
    assert [re.split(r" {2,}", one)[0] for one in shown.splitlines()] == checked


def test_python_examples_run() -> None:
    examples = [
        (path, block)
        for path in all_pages()
        for block in blocks(path.read_text(encoding="utf-8"), "python")
    ]
    assert examples
    for path, block in examples:
        exec(compile(block, str(path), "exec"), {"__name__": "example"})  # noqa: S102 -- our own pages


def test_python_that_needs_more_than_we_have_is_python() -> None:
    examples = [
        (path, block)
        for path in all_pages()
        for block in blocks(path.read_text(encoding="utf-8"), "py")
    ]
    assert any("import FastAPI" in block for _path, block in examples)
    for path, block in examples:
        tree = ast.parse(block, str(path))
        names = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "asyncflow"
            for alias in node.names
        }
        assert all(hasattr(asyncflow, name) for name in names), path


def console_lines() -> list[tuple[str, str]]:
    return [
        (path.name, line.removeprefix("$ "))
        for path in all_pages()
        for block in blocks(path.read_text(encoding="utf-8"), "console")
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


def test_commands_in_the_pages_exist_with_their_options() -> None:
    context = root_command.make_context("asyncflow", [], resilient_parsing=True)
    seen = 0
    for where, line in console_lines():
        argv = shlex.split(line, comments=True)
        if not argv or Path(argv[0]).name != "asyncflow":
            continue
        seen += 1
        command = root_command.get_command(context, argv[1])
        assert command is not None, f"{where}: {line}"
        known = {name for one in command.params for name in _names(one)}
        for word in argv[2:]:
            flag = word.split("=")[0]
            assert not flag.startswith("-") or flag in known, f"{where}: {line}"
    assert seen


def _names(parameter: click.Parameter) -> list[str]:
    return [*parameter.opts, *parameter.secondary_opts, "--help", "-h"]


def test_tasks_in_the_pages_exist() -> None:
    script = (ROOT / "run").read_text(encoding="utf-8")
    listed = set(re.findall(r"^  ([a-z]+) ", script, re.MULTILINE))
    named = {line.split()[1] for _, line in console_lines() if line.startswith("./run")}
    assert named
    assert named <= listed


def test_nothing_tells_to_install_the_other_project() -> None:
    bad = re.compile(r"pip install ['\"]?asyncflow(?!-server)\b")
    for path in [*all_pages(), ROOT / "run", *PACKAGE.rglob("*.py")]:
        assert not bad.search(path.read_text(encoding="utf-8")), path


def test_every_decision_is_listed() -> None:
    listed = re.findall(r"^\d{4}-[a-z0-9-]+$", page("adr/index.md"), re.MULTILINE)
    files = sorted(p.stem for p in (DOCS / "adr").glob("0*.md"))
    assert listed == files
    assert [int(name[:4]) for name in files] == list(range(1, len(files) + 1))


def test_the_changelog_knows_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {__version__}" in text
