"""A processor of one's own: counts the words of texts, keeps the most frequent.

$ PYTHONPATH=examples ASYNCFLOW_PROCESSORS=custom_processor asyncflow serve
$ asyncflow upload --wait notes.txt
"""

from collections import Counter

from asyncflow import Derivative, Result, Work, processor

MOST = 10


@processor("words", accepts=("text/*",), outputs=("top",))
def words(work: Work) -> Result:
    """Count the words of a text."""
    counts = Counter(work.source.read_text(errors="replace").lower().split())
    path = work.out / "top.txt"
    path.write_text("".join(f"{n} {word}\n" for word, n in counts.most_common(MOST)))
    top = Derivative(name="top", path=path, media_type="text/plain")
    return Result(facts={"words": counts.total()}, derivatives=(top,))
