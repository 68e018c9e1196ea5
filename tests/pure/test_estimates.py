"""What is told of how long things take."""

import pytest

from asyncflow.estimates import Estimates, Spent, left_s, pages_of

MIB = 1 << 20


def learnt(*spent: tuple[str, float, int]) -> Estimates:
    found = Estimates()
    for consumer, seconds, size in spent:
        found.add(Spent(consumer=consumer, seconds=seconds, size=size))
    return found


def test_who_has_no_history_has_no_estimate() -> None:
    found = learnt(("image", 1.0, MIB))

    assert found.mean_s("text", MIB) is None
    assert found.work_s(["image", "text"], MIB) is None
    assert found.percentile_s("text", 95) is None
    assert found.work_s([], MIB) == 0.0


def test_a_file_takes_as_long_as_others_of_its_size() -> None:
    found = learnt(("image", 0.1, MIB), ("image", 2.0, 64 * MIB), ("text", 3.0, MIB))

    assert found.mean_s("image", MIB) == pytest.approx(0.1)
    assert found.mean_s("image", 64 * MIB) == pytest.approx(2.0)
    assert found.work_s(["image", "text"], MIB) == pytest.approx(3.1)


def test_a_size_that_was_never_seen_is_taken_in_proportion() -> None:
    found = learnt(("image", 1.0, MIB))

    smaller, larger = found.mean_s("image", MIB // 16), found.mean_s("image", 16 * MIB)
    assert smaller is not None
    assert larger is not None
    assert smaller < 1.0 < larger


def test_the_latest_attempts_count_most() -> None:
    found = learnt(*[("image", 1.0, MIB)] * 50, *[("image", 3.0, MIB)] * 20)

    mean = found.mean_s("image", MIB)
    assert mean is not None
    assert 2.9 < mean < 3.0
    assert found.percentile_s("image", 95) == 3.0
    assert found.typical_s("image") == 1.0


def test_a_queue_is_shared_by_the_workers() -> None:
    found = learnt(("image", 2.0, MIB), ("text", 4.0, MIB))

    assert found.queue_s({"image": 10, "text": 1, "new": 5}, workers=2) == 12.0
    assert found.queue_s({}, workers=0) == 0.0


def test_a_running_step_is_believed_more_than_what_others_took() -> None:
    # others took 2 s; of eight pages one has taken 1.9 s
    assert left_s(2.0, percent=12.5, ran_s=1.9, still_s=0.0) == pytest.approx(13.3)
    assert left_s(2.0, percent=50, ran_s=9.0, still_s=0.0) == pytest.approx(9.0)
    assert left_s(2.0, percent=0, ran_s=0.0, still_s=0.0) == 2.0
    assert 1.9 < left_s(2.0, percent=1, ran_s=0.02, still_s=0.0) < 2.1


def test_time_without_news_is_time_of_the_next_piece() -> None:
    assert left_s(2.0, percent=50, ran_s=10.0, still_s=1.0) == pytest.approx(8.0)
    assert left_s(2.0, percent=50, ran_s=60.0, still_s=55.0) == 0.0


#: what the text step took for documents of words: seconds, bytes, pages
TYPED = [
    (0.325, 5_143, 1),
    (0.293, 8_310, 2),
    (0.384, 11_492, 3),
    (0.644, 17_789, 5),
    (0.617, 27_272, 8),
    (1.240, 39_870, 12),
]
#: and for scans
SCANNED = [
    (3.880, 117_757, 1),
    (9.670, 238_170, 2),
    (16.361, 357_821, 3),
    (21.912, 481_188, 4),
]


def read(*runs: tuple[float, int, int]) -> Estimates:
    found = Estimates()
    for seconds, size, pages in runs:
        found.add(Spent(consumer="text", seconds=seconds, size=size, pages=pages))
    return found


@pytest.mark.parametrize("history", [TYPED, [*TYPED, *SCANNED], [*SCANNED, *TYPED]])
def test_a_long_document_takes_as_long_as_its_pages(
    history: list[tuple[float, int, int]],
) -> None:
    found = read(*history)

    long = found.mean_s("text", 955_121, 300)
    assert long is not None
    assert 48.3 / 3 < long < 48.3 * 3


def test_by_its_bytes_alone_a_long_document_would_pass_for_a_short_one() -> None:
    by_bytes = read(*TYPED).mean_s("text", 955_121)
    assert by_bytes is not None
    assert by_bytes < 48.3 / 3


def test_pages_of_words_do_not_pass_for_scans() -> None:
    found = read(*TYPED, *SCANNED)

    words = found.mean_s("text", 955_121, 300)
    scans = found.mean_s("text", 4_802_271, 40)
    assert words is not None
    assert scans is not None
    assert 48.3 / 3 < words < 48.3 * 3
    assert 153.1 / 3 < scans < 153.1 * 3


def test_who_does_not_care_about_pages_is_forecast_by_bytes() -> None:
    # a picture of the first page
    found = read(*((0.5, 40_000 * pages, pages) for pages in (1, 2, 40, 3, 8) * 4))

    first = found.mean_s("text", 4_000_000, 300)
    assert first is not None
    assert first < 5


def test_pages_are_those_that_the_check_has_counted() -> None:
    assert pages_of({"identify": {"pages": 7}}) == 7
    for found in ({}, {"pages": 0}, {"pages": "7"}, 1):
        assert pages_of({"identify": found}) is None
    assert pages_of({}) is None
