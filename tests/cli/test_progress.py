import pytest

from asyncflow.cli.progress import Lines, figures, share_of, step_text
from asyncflow.client import Job, Progress, Step

MIB = 1 << 20


def at(sent: int) -> Progress:
    return Progress(sent_bytes=sent * MIB, total_bytes=100 * MIB)


def test_figures_say_share_speed_and_time() -> None:
    assert figures(at(25), 5 * MIB) == " 25 % of 100.0 MiB · 5.0 MiB/s · 15 s left"


def test_figures_promise_nothing_without_a_speed() -> None:
    assert figures(at(25), None) == " 25 % of 100.0 MiB"


def test_an_empty_file_is_whole_from_the_start() -> None:
    assert figures(Progress(sent_bytes=0, total_bytes=0), None) == "100 % of 0 B"


def test_a_log_gets_few_lines_and_one_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = Lines()

    for sent in [*range(101), 100, 100]:
        lines.sending("big.bin", at(sent))

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("big.bin: 100 % of 100.0 MiB")


def test_a_log_gets_a_line_per_change_of_a_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = Lines()

    for progress in range(100):
        steps = (Step(name="image", status="running", progress=progress),)
        lines.working("a.jpg", Job(job_id="j", status="PROCESSING", steps=steps))
    done = (Step(name="image", status="done"),)
    lines.working("a.jpg", Job(job_id="j", status="COMPLETED", steps=done))

    assert capsys.readouterr().err == "a.jpg: image running\na.jpg: image done\n"


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ("running", "image 40 %"),
        ("retrying", "image tries again"),
        ("ready", "image waits"),
        ("waiting", "processing"),
    ],
)
def test_the_step_at_work_is_named(status: str, text: str) -> None:
    steps = (
        Step(name="identify", status="done"),
        Step(name="image", status=status, progress=40),
    )

    assert step_text(Job(job_id="j", status="PROCESSING", steps=steps)) == text


def test_a_job_that_is_still_uploaded_is_as_far_as_its_bytes() -> None:
    job = Job(job_id="j", status="UPLOADING", file_size=200, uploaded_bytes=50)

    assert share_of(job) == 25.0
