"""How a Django, FastAPI or any other program works with an upload server beside it.

Only the standard library; a real program would keep the ids in its database and ask
for them from a job of its scheduler.

$ ASYNCFLOW_TOKEN=a-long-secret asyncflow serve
$ ASYNCFLOW_TOKEN=a-long-secret python examples/sidecar.py photo.jpg
"""

import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

SERVER = os.environ.get("ASYNCFLOW_URL", "http://127.0.0.1:8080").rstrip("/")
TOKEN = os.environ.get("ASYNCFLOW_TOKEN", "")
GONE = 404
OVER = {"COMPLETED", "FAILED", "REJECTED", "CANCELLED"}


def ask(path: str, method: str = "GET", body: Any = None, size: int = 0) -> Any:
    """Send one request; return its JSON."""
    request = urllib.request.Request(SERVER + path, data=body, method=method)  # noqa: S310 -- the address is the operator's
    if TOKEN:
        request.add_header("Authorization", f"Bearer {TOKEN}")
    if body is not None:
        request.add_header("Content-Type", "application/octet-stream")
        request.add_header("Content-Length", str(size))
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 -- same
        return json.load(answer)


def hand_over(path: Path) -> str:
    """Give a file to the server; return the id to keep in the database."""
    name = urllib.parse.quote(path.name, safe="")
    with path.open("rb") as file:
        size = path.stat().st_size
        answer = ask(f"/upload/{name}", "PUT", body=file, size=size)
    return str(answer["jobId"])


def outcome(job_id: str) -> dict[str, Any] | None:
    """Return a job that is over; None: ask again later."""
    try:
        job: dict[str, Any] = ask(f"/status/{job_id}")
    except urllib.error.HTTPError as error:
        with error:
            if error.code != GONE:
                raise
        return {"status": "DELETED", "downloadUrls": {}}
    return job if job["status"] in OVER else None


def main() -> None:
    """Hand over the files that are named and tell what became of them."""
    waiting = {hand_over(Path(name)): name for name in sys.argv[1:]}
    while waiting:
        for job_id in list(waiting):
            job = outcome(job_id)
            if job is not None:
                print(waiting.pop(job_id), job["status"], *job["downloadUrls"])
        time.sleep(0.5)


if __name__ == "__main__":
    main()
