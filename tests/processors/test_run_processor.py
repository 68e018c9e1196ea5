"""What `run_processor` says of a processor that a worker would refuse."""

from pathlib import Path

import pytest

from asyncflow.processors.base import Result, Work
from asyncflow.testing.processor import ContractBroken, run_processor


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"it": object()}, "the result is not JSON"),
        ({"it": float("inf")}, "the result is not JSON"),
        ({"it": "\ud800"}, "the result is not JSON"),
        ({"it": "x" * (1 << 20)}, "the result is larger than 1048576 B"),
        ([1, 2], "the facts are a list, not a mapping"),
    ],
    ids=["object", "infinity", "no text", "large", "list"],
)
def test_facts_that_a_worker_would_refuse_break_the_contract(
    tmp_path: Path, facts: dict[str, object], says: str
) -> None:
    source = tmp_path / "a.txt"
    source.write_text("hello")

    def process(_work: Work) -> Result:
        return Result(facts=facts)

    with pytest.raises(ContractBroken, match=says):
        run_processor(process, source)
