"""What is kept of an exception."""

from asyncflow import causes


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_a_cause_is_one_line_with_type_and_message() -> None:
    assert causes.cause_of(ValueError("a\nb\x00 c")) == "ValueError: a b c"
    assert causes.cause_of(KeyError()) == "KeyError"
    assert causes.cause_of(Mute()) == "Mute: its message cannot be read"
    assert len(causes.cause_of(ValueError("x" * 10_000))) == causes.MAX_CAUSE


def test_what_was_joined_can_be_parted_and_is_bounded() -> None:
    trace = "Traceback\n" + "".join(f"  line {n}\n" for n in range(2000))

    detail, cause, kept = causes.parted(causes.joined("it\nfailed", "why", trace))

    assert (detail, cause) == ("it failed", "why")
    assert len(kept) <= causes.MAX_KEPT + 1
    assert kept.endswith("  line 1999")
    assert causes.parted(causes.joined("plain", "", "")) == ("plain", "", "")
    assert causes.parted(causes.joined("plain", "why", "")) == ("plain", "why", "")
