"""A processor that does nothing: what remains is what the pool itself costs."""

from asyncflow.processors.base import Result, Work, processor


@processor("noop", accepts=("*/*",))
def noop(_work: Work) -> Result:
    """Return nothing."""
    return Result()
