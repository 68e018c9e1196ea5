"""The alert rules and the dashboard that come along: what they ask for is there."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from asyncflow.metrics import SPECS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "packaging" / "monitoring"
#: of the server's own process, made by the library
OTHERS = {"process_resident_memory_bytes", "up"}
#: what no operator looks at on a board, and why
NOT_SHOWN = {
    "asyncflow_loop_tasks": "for who looks for a leak, beside a profile of the process",
}


def promtool(*words: str) -> None:
    done = subprocess.run(
        ["promtool", *words], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def expressions() -> list[str]:
    board = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def asked_for(text: str) -> set[str]:
    found = set(re.findall(r"\b(?:asyncflow|process)_[a-z_]+\b", text))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}


@pytest.mark.needs("promtool")
def test_the_rules_raise_what_they_should_and_nothing_else() -> None:
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts.test.yml")


def test_the_rules_and_the_dashboard_ask_for_metrics_that_there_are() -> None:
    known = {spec.name for spec in SPECS.values()} | OTHERS
    rules = (FOLDER / "alerts.yml").read_text(encoding="utf-8")
    queries = re.sub(r"alert: .*|summary: .*", "", rules)

    assert asked_for(queries) <= known
    assert asked_for(" ".join(expressions())) <= known
    assert len(expressions()) > 10


def test_every_metric_is_on_the_dashboard_or_left_out_for_a_reason() -> None:
    shown = asked_for(" ".join(expressions())) - OTHERS
    names = {spec.name for spec in SPECS.values()}

    assert shown | set(NOT_SHOWN) == names
    assert not shown & set(NOT_SHOWN)


def test_no_two_panels_lie_on_each_other() -> None:
    panels = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))["panels"]
    places = [(one["gridPos"]["x"], one["gridPos"]["y"]) for one in panels]
    assert len({one["id"] for one in panels}) == len(set(places)) == len(panels)


@pytest.mark.needs("promtool")
def test_the_queries_of_the_dashboard_can_be_parsed(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{n}", "expr": text.replace("$instance", ".*")}
        for n, text in enumerate(expressions())
    ]
    path = tmp_path / "panels.json"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))

    promtool("check", "rules", str(path))
