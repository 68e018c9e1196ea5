"""Whose step is next when there is one worker and somebody else's files wait."""

from pathlib import Path

from tests.server_process import ServerProcess, serving
from tests.web.live import rows, until

SLOW = """
import time
from asyncflow import Result, processor

@processor("slow", accepts=("text/*",), outputs=())
def slow(work):
    time.sleep(0.3)
    return Result()
"""
STEPS = ("identify.completed", "slow.completed")


def give(server: ServerProcess, client: str) -> str:
    text = b"some text\n"
    answer = server.request("PUT", "/upload/a.txt", text, X_Forwarded_For=client)
    return str(answer.json["jobId"])


def test_one_file_goes_through_between_the_many_of_somebody_else(
    tmp_path: Path,
) -> None:
    (tmp_path / "slow_work.py").write_text(SLOW)
    settings = {"workers": "1", "trusted_proxies": "127.0.0.1"}
    with serving(tmp_path / "data", processors="slow_work", **settings) as server:
        many = [give(server, "192.0.2.1") for _ in range(8)]
        # by then each of them has passed its gate
        until(lambda: server.status(many[1])["status"] == "COMPLETED")
        one = give(server, "192.0.2.2")
        for job in [one, *many]:
            assert server.finished(job)["status"] == "COMPLETED"
        told = rows(
            server,
            "SELECT j.pid, e.type FROM event e JOIN job j ON j.id = e.job_id"
            " WHERE e.type IN (?, ?) ORDER BY e.seq",
            *STEPS,
        )
    first = told.index((one, "identify.completed"))
    assert told[first + 1] == (one, "slow.completed")
    # somebody else's files were waiting all the time
    assert told[-1][0] == many[-1]
