import json
from pathlib import Path

import pytest

from asyncflow.cli import main
from asyncflow.config import declared


def test_every_setting_is_shown_with_its_origin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASYNCFLOW_PORT", "9999")

    assert main(["settings", "--json"]) == 0

    shown = json.loads(capsys.readouterr().out)
    assert shown.keys() == {one.name for one in declared()}
    assert shown["port"] == {"value": "9999", "origin": "ASYNCFLOW_PORT"}
    assert shown["host"]["origin"] == "default"


def test_a_secret_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASYNCFLOW_TOKEN", "very-secret-token")

    assert main(["settings"]) == 0

    shown = capsys.readouterr().out
    assert "very-secret-token" not in shown
    assert "ASYNCFLOW_TOKEN" in shown


def test_all_bad_settings_are_named_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("asyncflow.toml").write_text('port = "many"\nworkers = -1\n')

    assert main(["settings"]) == 2

    shown = capsys.readouterr().err
    assert "port is 'many'" in shown
    assert "workers is -1" in shown
