"""A processor of one's own: counts the words of texts, keeps the most frequent.

$ cd examples && asyncflow serve --processors custom_processor
$ asyncflow upload --wait notes.txt
"""

from collections import Counter

from asyncflow import Derivative, Options, Result, Work, processor


class Wanted(Options):
    """What pipelines may ask for."""

    most: int = 10


@processor("words", accepts=("text/*",), outputs=("top",), options=Wanted)
def words(work: Work) -> Result:
    """Count the words of a text."""
    wanted: Wanted = work.options
    counts = Counter(work.source.read_text(errors="replace").lower().split())
    path = work.out / "top.txt"
    most = counts.most_common(wanted.most)
    path.write_text("".join(f"{n} {word}\n" for word, n in most))
    top = Derivative(name="top", path=path, media_type="text/plain")
    return Result(facts={"words": counts.total()}, derivatives=(top,))
