"""What decorators refuse, at once and by the function's name."""

from collections.abc import Iterator
from typing import Any

import pytest

from asyncflow import Options, Result, consumer, processor, task
from asyncflow.processors.base import REGISTRY


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    before = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


class NeedsOne(Options):
    strength: int


class Unknown(Options):
    strength: "Nope" = 3  # type: ignore[name-defined]  # noqa: F821 -- the point


def work(_work: Any) -> Any:
    return Result()


@pytest.mark.parametrize(
    ("decorate", "says"),
    [
        (lambda: task("x y/z"), "'x y/z' of"),
        (lambda: task("job"), "accepted as a name: at"),
        (lambda: task(""), "'' of"),
        (lambda: task("ok", attempts=0), "attempts is 0; accepted: 1 to 100"),
        (lambda: task("ok", attempts=True), "attempts is True"),
        (lambda: task("ok", concurrency=0), "concurrency is 0"),
        (lambda: task("ok", priority=500), "priority is 500; accepted: -100 to 100"),
        (lambda: task("ok", wall_s=-1), "wall_s is -1; accepted: a number above 0"),
        (lambda: task("ok", memory_bytes=0), "memory_bytes is 0"),
        (lambda: task("ok", rate="fast"), "rate is 'fast'"),
        (lambda: consumer("ok", on="a.b", wall_s=float("nan")), "wall_s is nan"),
        (lambda: processor("ok", accepts=("image",)), "accepts is ('image',)"),
        (lambda: processor("ok", accepts="*"), "accepts is '*'"),  # type: ignore[arg-type]
        (lambda: processor("ok", accepts=()), "accepts names no media type"),
        (lambda: processor("ok", accepts=("*",), outputs="a"), "outputs is 'a'"),  # type: ignore[arg-type]
        (lambda: processor("ok", accepts=("*",), gate=True), "on is 'file.accepted'"),
        (lambda: processor("ok", accepts=("*",), on="file.uploaded"), "a gate has"),
        (lambda: processor("ok", accepts=("*",), options=NeedsOne), "Missing required"),
        (lambda: processor("ok", accepts=("*",), options=Unknown), "'Nope' is not"),
        (lambda: processor("ok", accepts=("*",), options=dict), "options is <class"),  # type: ignore[arg-type]
    ],
)
def test_a_senseless_declaration_is_refused(decorate: Any, says: str) -> None:
    with pytest.raises(ValueError, match=r"test_declarations\.work: ") as refused:
        decorate()(work)

    assert says in str(refused.value)
    assert "ok" not in REGISTRY


def test_a_task_without_a_name_is_refused() -> None:
    with pytest.raises(TypeError, match="needs a name"):
        task(work)  # type: ignore[arg-type]


def test_all_mistakes_of_a_declaration_are_named() -> None:
    with pytest.raises(ValueError, match=r"attempts .*; concurrency .*; wall_s "):
        task("ok", attempts=0, wall_s=-1, concurrency=0)(work)


def test_a_name_is_given_once_also_within_a_module() -> None:
    def first(_work: object) -> Result:
        return Result()

    task("dup")(work)
    task("dup")(work)  # its module is loaded again
    with pytest.raises(ValueError, match=r"\.work and .*\.first$"):
        task("dup")(first)
    assert REGISTRY["dup"].run is work


def test_a_function_of_the_same_name_is_another_one() -> None:
    def same(_work: object) -> Result:
        return Result()

    task("dup")(same)

    def same(_work: object) -> Result:  # type: ignore[no-redef]
        return Result()

    with pytest.raises(ValueError, match="is the name of"):
        task("dup")(same)
