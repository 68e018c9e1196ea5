"""Hosts that fail, or end without a word: their process ends all the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BEGIN = """
import asyncio, os, signal
from pathlib import Path
from aiohttp import web
import asyncflow

settings = asyncflow.Settings(data_dir=Path("data"), workers=1, fill_level=100)
app = web.Application()
asyncflow.setup(app, settings=settings)

async def fail(_app):
    raise RuntimeError("the host is to blame")
"""
HOSTS = {
    "its startup fails": """
app.on_startup.append(fail)
web.run_app(app, host="127.0.0.1", port=0)
""",
    "its cleanup fails before ours": """
app.on_cleanup.insert(0, fail)
async def leave(_app):
    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
app.on_startup.append(leave)
web.run_app(app, host="127.0.0.1", port=0)
""",
    "it never cleans up": """
async def main():
    await web.AppRunner(app).setup()
    raise RuntimeError("the host is to blame")
asyncio.run(main())
""",
}


@pytest.mark.parametrize("host", HOSTS)
def test_the_process_of_a_host_ends_though(tmp_path: Path, host: str) -> None:
    script = tmp_path / "host.py"
    script.write_text(f"{BEGIN}{HOSTS[host]}")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "RuntimeError: the host is to blame" in done.stderr
    # nothing holds the folder any more: the next start is not refused
    again = script.with_name("again.py")
    again.write_text(
        f"{BEGIN}\nasync def main():\n    runner = web.AppRunner(app)\n"
        "    await runner.setup()\n    await runner.cleanup()\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, str(again)], cwd=tmp_path, timeout=60, check=True)
