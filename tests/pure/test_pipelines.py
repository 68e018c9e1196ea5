"""The rules of pipelines."""

import pytest

from asyncflow import pipelines
from asyncflow.errors import BadSettings
from asyncflow.jobs import ACCEPTED, SUBMITTED, UPLOADED, PlanEntry, Subscription

IDENTIFY = Subscription(
    entry=PlanEntry(consumer="identify", on=UPLOADED, gate=True, priority=-10),
    accepts=("*",),
)
IMAGE = Subscription(
    entry=PlanEntry(consumer="image", on=ACCEPTED), accepts=("image/*",)
)
TEXT = Subscription(
    entry=PlanEntry(consumer="text", on=ACCEPTED, priority=10, options={"a": 1}),
    accepts=("image/*", "application/pdf"),
)
SEARCH = Subscription(
    entry=PlanEntry(consumer="search", on="text.completed"), accepts=("*",)
)
TASK = Subscription(entry=PlanEntry(consumer="report", on=SUBMITTED))
ALL = (IDENTIFY, IMAGE, TEXT, SEARCH, TASK)


def plan(text: str, media_type: str = "image/png", name: str = "") -> dict[str, str]:
    """Return who takes such a file, and on which event."""
    found = pipelines.parse(text, "p.toml").plan(name, media_type, ALL)
    return {entry.consumer: entry.on for entry in found}


USUAL = {
    "identify": "file.uploaded",
    "image": "file.accepted",
    "text": "file.accepted",
    "search": "text.completed",
}


def test_without_a_word_everybody_takes_what_they_take() -> None:
    assert plan("") == USUAL
    assert plan("", "application/pdf").keys() == {"identify", "text", "search"}
    # who follows text has nothing to follow
    assert plan("", "video/mp4").keys() == {"identify"}


def test_a_rule_names_who_alone_takes_a_file_but_gates_stay() -> None:
    text = '[pipelines.default.types."image/*"]\nconsumers = ["image"]'

    assert plan(text).keys() == {"identify", "image"}
    assert plan(text, "application/pdf").keys() == {"identify", "text", "search"}


def test_the_first_pattern_that_fits_decides() -> None:
    text = """
        [pipelines.default.types."image/png"]
        consumers = []
        [pipelines.default.types."image/*"]
        consumers = ["image"]
    """

    assert plan(text, "image/png").keys() == {"identify"}
    assert plan(text, "image/jpeg").keys() == {"identify", "image"}


def test_a_pipeline_is_chosen_by_its_name() -> None:
    text = '[pipelines.bare.types."*"]\nconsumers = []'

    assert plan(text) == USUAL
    assert plan(text, name="bare").keys() == {"identify"}
    # it was removed after the upload had chosen it
    assert plan(text, name="gone") == USUAL


def test_a_consumer_goes_after_another_where_that_takes_the_file() -> None:
    text = '[pipelines.default.types."*".steps.text]\nafter = "image"'

    assert plan(text)["text"] == "image.completed"
    assert plan(text, "application/pdf")["text"] == "file.accepted"


def test_a_rule_shapes_a_step() -> None:
    text = """
        [pipelines.default.types."image/*".steps.text]
        required = false
        priority = -3
        attempts = 7
        options = { b = 2 }
    """
    found = pipelines.parse(text, "p.toml").plan("", "image/png", ALL)

    (entry,) = [one for one in found if one.consumer == "text"]
    assert (entry.required, entry.priority, entry.max_attempts) == (False, -3, 7)
    assert entry.options == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = [", "no TOML"),
        ("colour = 1", "colour"),
        ("[consumers.text]\nconcurency = 1", "concurency"),
        ("[consumers.text]\nconcurrency = 0", "consumers"),
        ('[consumers.text]\nrate = "fast"', "consumers.text.rate"),
        ('[consumers.text]\nwall = "soon"', "consumers.text.wall"),
        ("[pipelines.a]\npriority = 101", "priority"),
        ('[pipelines.a.types."image"]', "image/*"),
        ('[pipelines.""]', 'pipelines."" cannot be chosen'),
        (
            '[pipelines.a.types."*"]\n[pipelines.a.types."image/*"]',
            "never decides: '*' comes first",
        ),
        ('[pipelines.a.types."*".steps.text]\nafter = "text"', "circle"),
        (
            """[pipelines.a.types."*".steps.text]
            after = "image"
            [pipelines.a.types."*".steps.image]
            after = "text"
            """,
            "circle",
        ),
    ],
)
def test_what_nobody_can_follow_is_refused_by_its_name(text: str, says: str) -> None:
    with pytest.raises(BadSettings, match=r"p\.toml") as refused:
        pipelines.parse(text, "p.toml")

    assert says in refused.value.detail


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[consumers.texts]\nconcurrency = 1", "did you mean text?"),
        ('[pipelines.a.types."*"]\nconsumers = ["imgae"]', "did you mean image?"),
        ('[pipelines.a.types."*".steps.zzz]\nrequired = true', "there are identify"),
        ('[pipelines.a.types."*".steps.text]\nafter = "zzz"', "there are identify"),
        ('[pipelines.a.types."*".steps.identify]\nrequired = false', "is a gate"),
        ('[pipelines.a.types."*".steps.text]\nafter = "identify"', "no gate"),
        ('[pipelines.a.types."*".steps.text]\nafter = "report"', "no gate"),
        ('[pipelines.a.types."image/*"]\nconsumers = ["report"]', "takes no files"),
        ('[pipelines.a.types."video/*"]\nconsumers = ["text"]', "no files of video/*"),
        ('[pipelines.a.types."*"]\nconsumers = ["identify"]', "'identify' is a gate"),
        ('[pipelines.a.types."*"]\nconsumers = ["text", "text"]', "'text' twice"),
        (
            """[pipelines.a.types."image/*"]
            consumers = ["text"]
            [pipelines.a.types."image/*".steps.text]
            after = "image"
            """,
            "steps.text.after: 'image' is not among the consumers",
        ),
        (
            """[pipelines.a.types."image/*"]
            consumers = ["image"]
            [pipelines.a.types."image/*".steps.text]
            attempts = 2
            """,
            "steps.text: 'text' is not among the consumers",
        ),
        # search follows text by itself
        ('[pipelines.a.types."*".steps.text]\nafter = "search"', "goes in a circle"),
    ],
)
def test_what_speaks_of_nobody_is_refused_by_its_name(text: str, says: str) -> None:
    said = pipelines.parse(text, "p.toml")

    with pytest.raises(BadSettings, match=r"p\.toml") as refused:
        pipelines.check(said, ALL, "p.toml")

    assert says in refused.value.detail


def test_the_longest_attempt_is_written_as_people_write_it() -> None:
    said = pipelines.parse('[consumers.text]\nwall = "1h30m"', "p.toml")

    assert said.consumers["text"].wall_s == 5400.0


def test_every_mistake_is_named_by_its_real_keys() -> None:
    text = """
        [consumers.text]
        concurrency = 0
        [pipelines.a]
        priority = 101
        [pipelines.a.types."image/*".steps.text]
        requird = true
        attempts = "many"
        [pipelines.a.types."video/*"]
        consumers = "all"
    """

    with pytest.raises(BadSettings) as refused:
        pipelines.parse(text, "p.toml")

    image = 'pipelines.a.types."image/*".steps.text'
    number = "accepted: a whole number from"
    assert refused.value.detail.splitlines() == [
        f"p.toml: consumers.text.concurrency is 0; {number} 1 to 100000",
        f"p.toml: pipelines.a.priority is 101; {number} -100 to 100",
        f"p.toml: there is no key {image}.requird; did you mean required?",
        f"p.toml: {image}.attempts is 'many'; {number} 1 to 100",
        "p.toml: pipelines.a.types.\"video/*\".consumers is 'all'; accepted: a list",
    ]


def test_a_number_where_a_text_belongs_is_told_the_text_s_form() -> None:
    with pytest.raises(BadSettings) as refused:
        pipelines.parse("[consumers.image]\nrate = 10\nwall = 10\n", "some.toml")

    rate, wall = refused.value.detail.splitlines()
    assert rate.startswith("some.toml: consumers.image.rate is 10; accepted: a text, ")
    assert "such as 10/s" in rate
    assert "such as 10m" in wall


def test_a_byte_order_mark_is_no_mistake() -> None:
    said = pipelines.parse("\ufeff[consumers.image]\nattempts = 2\n", "some.toml")

    assert said.consumers["image"].attempts == 2
