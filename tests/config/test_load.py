"""Where settings come from, which source wins, and how bad ones are told."""

import traceback
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from asyncflow.config import Settings, declared, load
from asyncflow.errors import BadSettings
from asyncflow.kinds import Secret

GIB = 1 << 30


def origin_of(settings: Settings, name: str) -> str:
    return next(one.origin for one in settings.show() if one.name == name)


def value_of(settings: Settings, name: str) -> str:
    return next(one.value for one in settings.show() if one.name == name)


def problems_of(
    cwd: Path,
    flags: dict[str, object] | None = None,
    env: dict[str, str] | None = None,
) -> list[str]:
    with pytest.raises(BadSettings) as caught:
        load(flags, env=env or {}, cwd=cwd)
    return caught.value.detail.splitlines()


def test_without_any_source_the_defaults_hold(tmp_path: Path) -> None:
    settings = load(env={}, cwd=tmp_path)
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.max_upload_bytes == 5 * GIB
    assert settings.upload_expiry == 86400
    assert settings.token is None
    assert {one.origin for one in settings.show()} == {"default"}


def test_each_source_beats_the_one_behind_it(tmp_path: Path) -> None:
    (tmp_path / "asyncflow.toml").write_text(
        "port = 1\nworkers = 1\nattempts = 1\nmax_pages = 1\n"
    )
    (tmp_path / ".env").write_text(
        "ASYNCFLOW_PORT=2\nASYNCFLOW_WORKERS=2\nASYNCFLOW_ATTEMPTS=2\n"
    )
    env = {"ASYNCFLOW_PORT": "3", "ASYNCFLOW_WORKERS": "3"}
    settings = load({"port": "4"}, env=env, cwd=tmp_path)
    got = (settings.port, settings.workers, settings.attempts, settings.max_pages)
    assert got == (4, 3, 2, 1)
    assert origin_of(settings, "port") == "--port"
    assert origin_of(settings, "workers") == "ASYNCFLOW_WORKERS"
    assert origin_of(settings, "attempts") == ".env"
    assert origin_of(settings, "max_pages") == "asyncflow.toml"
    assert origin_of(settings, "lease") == "default"


def test_the_real_environment_and_folder_are_the_usual_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASYNCFLOW_PORT", "4711")
    settings = load()
    assert settings.port == 4711
    assert settings.data_dir == tmp_path / "data"


def test_constructing_settings_reads_no_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ASYNCFLOW_PORT", "4711")
    assert Settings().port == 8080


def test_what_is_wrong_in_a_program_is_told_in_the_same_words() -> None:
    with pytest.raises(BadSettings) as caught:
        Settings(port="abc", prot=80, token="short")

    assert str(caught.value).splitlines() == [
        "port is 'abc'; accepted: a whole number from 0 to 65535",
        "token is (hidden); accepted: 8 or more visible ASCII characters",
        "prot in the arguments is no setting; did you mean port?",
    ]
    assert "'short'" not in "".join(traceback.format_exception(caught.value))


def test_what_is_empty_or_not_given_does_not_count(tmp_path: Path) -> None:
    env = {"ASYNCFLOW_TOKEN": "", "ASYNCFLOW_PORT": ""}
    settings = load({"port": None, "allowed_types": ()}, env=env, cwd=tmp_path)
    assert settings.port == 8080
    assert settings.token is None
    assert settings.allowed_types == ()


def test_lists_come_as_words_or_as_arrays(tmp_path: Path) -> None:
    (tmp_path / "asyncflow.toml").write_text('allowed_types = ["image/*", "text/csv"]')
    env = {"ASYNCFLOW_ALLOWED_ORIGINS": "https://App.example.org, http://[::1]:3000"}
    settings = load({"allowed_hosts": ("a.example", "b")}, env=env, cwd=tmp_path)
    assert settings.allowed_types == ("image/*", "text/csv")
    assert settings.allowed_origins == ("https://app.example.org", "http://[::1]:3000")
    assert settings.allowed_hosts == ("a.example", "b")


def test_sizes_and_durations_come_as_text_or_numbers(tmp_path: Path) -> None:
    (tmp_path / "asyncflow.toml").write_text(
        'max_upload_bytes = 4096\nlease = 15\ngrace = "1m"\nbody_min_rate = "2KiB"\n'
    )
    settings = load(env={}, cwd=tmp_path)
    assert settings.max_upload_bytes == 4096
    assert (settings.lease, settings.grace) == (15.0, 60.0)
    assert settings.body_min_rate == 2048


def test_a_relative_data_folder_lies_where_the_program_was_started(
    tmp_path: Path,
) -> None:
    assert load({"data_dir": "x/y"}, env={}, cwd=tmp_path).data_dir == tmp_path / "x/y"
    assert load({"data_dir": "/srv"}, env={}, cwd=tmp_path).data_dir == Path("/srv")


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "asyncflow.toml").write_text('prot = 1\nworkers = "many"\n')
    (tmp_path / ".env").write_text("ASYNCFLOW_GRACE=soon\nOTHER_PROGRAM=x\n")
    env = {"ASYNCFLOW_FILL_LEVEL": "101", "ASYNCFLOW_LOG_LEVEL": "loud"}
    told = problems_of(tmp_path, {"port": "abc"}, env)
    assert sorted(told) == [
        (
            "fill_level is 101 (from ASYNCFLOW_FILL_LEVEL);"
            " accepted: a whole number from 1 to 100"
        ),
        (
            "grace is 'soon' (from .env);"
            " accepted: a duration above 0 and up to 3650d, such as 24h,"
            " 1h30m, 90s or 90 (seconds)"
        ),
        (
            "log_level is 'loud' (from ASYNCFLOW_LOG_LEVEL);"
            " accepted: one of debug, info, warning, error"
        ),
        "port is 'abc' (from --port); accepted: a whole number from 0 to 65535",
        "prot in asyncflow.toml is no setting; did you mean port?",
        (
            "workers is 'many' (from asyncflow.toml);"
            " accepted: a whole number from 0 to 1024"
        ),
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", "http://example.org"),
        ("host", "a b"),
        ("port", "-1"),
        ("data_dir", "a\0b"),
        ("token", "short"),
        ("token", "with spaces in it"),
        ("public_url", "example.org"),
        ("public_url", "https://example.org/?q=1"),
        ("allowed_hosts", "http://example.org"),
        ("allowed_origins", "*"),
        ("allow_public", "perhaps"),
        ("max_upload_bytes", "0"),
        ("max_upload_bytes", "5 gigs"),
        ("quota_bytes", "1048577TiB"),
        ("allowed_types", "jpeg"),
        ("fill_level", "0"),
        ("upload_expiry", "0"),
        ("lease", "-1s"),
        ("attempts", "0"),
        ("loop", "trio"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_what_is_accepted(
    tmp_path: Path, name: str, value: str
) -> None:
    (told,) = problems_of(tmp_path, env={f"ASYNCFLOW_{name.upper()}": value})
    accepts = next(one.accepts for one in declared() if one.name == name)
    assert told.startswith(f"{name} is ")
    assert told.endswith(f"(from ASYNCFLOW_{name.upper()}); accepted: {accepts}")


def test_a_nearly_right_variable_is_refused(tmp_path: Path) -> None:
    (told,) = problems_of(tmp_path, env={"ASYNCFLOW_WORKRES": "2"})
    assert told == (
        "ASYNCFLOW_WORKRES in the environment is no setting;"
        " did you mean ASYNCFLOW_WORKERS?"
    )


def test_variables_of_the_client_and_of_others_are_left_alone(tmp_path: Path) -> None:
    env = {"ASYNCFLOW_URL": "http://x", "PORT": "bad", "HOST": "also bad"}
    assert load(env=env, cwd=tmp_path).port == 8080


def test_an_env_file_is_read_as_shells_write_it(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "# a comment\n"
        "export ASYNCFLOW_PORT=81  # and another\n"
        "asyncflow_host = 'localhost'\n"
        'ASYNCFLOW_NODE="a-b"\n'
        "ASYNCFLOW_PUBLIC_URL=https://${ASYNCFLOW_NODE}.example.org/a#b\n"
        "ASYNCFLOW_WORKERS\n"
        "ASYNCFLOW_ATTEMPTS=\n"
        "ASYNCFLOW_ALLOWED_TYPES= image/* , text/csv\n"
    )
    told = problems_of(tmp_path)
    assert len(told) == 1
    assert told[0].startswith("public_url is 'https://a-b.example.org/a#b' (from .env)")

    settings = load({"public_url": "https://x.example"}, env={}, cwd=tmp_path)
    assert (settings.port, settings.host, settings.node) == (81, "localhost", "a-b")
    assert (settings.workers, settings.attempts) == (0, 3)
    assert settings.allowed_types == ("image/*", "text/csv")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("port = true", "port is True"),
        ("port = 80.5", "port is 80.5"),
        ("port = [80]", "port is [80]"),
        ("port = {a = 80}", "port is {'a': 80}"),
        ("lease = nan", "lease is nan"),
        ("lease = inf", "lease is inf"),
        ("lease = false", "lease is False"),
        ("lease = 07:32:00", "lease is datetime.time(7, 32)"),
        ("max_upload_bytes = 1e300", "max_upload_bytes is 1e+300"),
        ("allow_public = 2", "allow_public is 2"),
        ("allow_public = 1.0", "allow_public is 1.0"),
        ("allowed_hosts = 3", "allowed_hosts is 3"),
        ("allowed_hosts = ['a', 3]", "allowed_hosts is ['a', 3]"),
        ("allowed_hosts = {a = 1}", "allowed_hosts is {'a': 1}"),
        ("node = 5", "node is 5"),
        ("host = ['localhost']", "host is ['localhost']"),
        ("data_dir = 3", "data_dir is 3"),
        ("log_level = 'INFO'", "log_level is 'INFO'"),
    ],
)
def test_a_value_of_another_kind_is_refused(
    tmp_path: Path, line: str, told: str
) -> None:
    (tmp_path / "asyncflow.toml").write_text(line)
    (problem,) = problems_of(tmp_path)
    assert problem.startswith(f"{told} (from asyncflow.toml); accepted: ")


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("Port = 0x10", "port", 16),
        ("max_upload_bytes = 5e9", "max_upload_bytes", 5_000_000_000),
        ("allow_public = 1", "allow_public", True),
        ("allow_public = 'Off'", "allow_public", False),
        ("allow_public = 'yes'", "allow_public", True),
        ("lease = 7", "lease", 7.0),
        ("allowed_types = []", "allowed_types", ()),
    ],
)
def test_a_toml_value_of_a_like_kind_is_taken(
    tmp_path: Path, line: str, name: str, value: object
) -> None:
    (tmp_path / "asyncflow.toml").write_text(line)
    assert getattr(load(env={}, cwd=tmp_path), name) == value


def test_the_home_of_nobody_is_told(tmp_path: Path) -> None:
    assert problems_of(tmp_path, {"data_dir": "~nobody.here/x"}) == [
        "data_dir is '~nobody.here/x', and nobody is called so"
    ]


def test_a_toml_file_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "asyncflow.toml").write_text("port 8080")
    (told,) = problems_of(tmp_path)
    assert told.startswith("asyncflow.toml cannot be read: ")


def test_an_env_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"ASYNCFLOW_PORT=\xff\xfe")
    (told,) = problems_of(tmp_path)
    assert told.startswith(".env cannot be read: ")


def test_the_token_is_never_shown(tmp_path: Path) -> None:
    env = {"ASYNCFLOW_TOKEN": "open-sesame"}
    settings = load(env=env, cwd=tmp_path)
    assert settings.token is not None
    assert settings.token.get_secret_value() == "open-sesame"
    assert value_of(settings, "token") == "(hidden)"
    assert "sesame" not in repr(settings) + str(settings.show())
    bad = problems_of(tmp_path, env={"ASYNCFLOW_TOKEN": "open sesame"})
    assert "sesame" not in "".join(bad)


def test_a_secret_shows_itself_only_to_who_asks() -> None:
    settings = Settings(token="open-sesame")
    token = settings.token
    assert token == Secret("open-sesame") != Secret("other-words")
    assert len({token, Secret("open-sesame")}) == 1
    shown = [str(token), repr(token), f"{token}", repr([settings])]
    assert "sesame" not in "".join(shown)
    assert not hasattr(token, "__dict__")


def test_a_secret_of_the_wrong_kind_is_not_told_either(tmp_path: Path) -> None:
    (tmp_path / "asyncflow.toml").write_text('token = ["open-sesame"]')
    (told,) = problems_of(tmp_path)
    assert told.startswith("token is (hidden) (from asyncflow.toml); accepted: ")


def test_settings_can_be_copied_with_changes(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ASYNCFLOW_PORT=81\nASYNCFLOW_TOKEN=open-sesame\n")
    settings = load(env={}, cwd=tmp_path)
    other = replace(settings, workers=2)
    assert (other.port, other.workers, settings.workers) == (81, 2, 0)
    assert other.token == settings.token
    assert origin_of(other, "port") == ".env"
    assert other.private == settings.private
    with pytest.raises(BadSettings, match="workers is 2000"):
        replace(settings, workers=2000)


def test_the_token_can_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from-a-file\n")
    settings = load(env={"ASYNCFLOW_TOKEN_FILE": "secret"}, cwd=tmp_path)
    assert settings.token is not None
    assert settings.token.get_secret_value() == "from-a-file"
    assert origin_of(settings, "token") == "ASYNCFLOW_TOKEN_FILE"


def test_a_token_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    (told,) = problems_of(tmp_path, env={"ASYNCFLOW_TOKEN_FILE": "nowhere"})
    assert told.startswith("ASYNCFLOW_TOKEN_FILE names a file that cannot be read")


def test_a_token_and_a_file_for_it_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from-a-file\n")
    env = {"ASYNCFLOW_TOKEN_FILE": "secret", "ASYNCFLOW_TOKEN": "given-too"}
    assert problems_of(tmp_path, env=env) == [
        "token and ASYNCFLOW_TOKEN_FILE are both given; accepted: one"
    ]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "files.example.org"])  # noqa: S104 -- never bound
def test_a_public_address_needs_a_token_or_leave(tmp_path: Path, host: str) -> None:
    (told,) = problems_of(tmp_path, {"host": host})
    assert told.startswith(f"host is {host!r}, which others can reach, and no token")
    env = {"ASYNCFLOW_TOKEN": "open-sesame"}
    assert load({"host": host}, env=env, cwd=tmp_path).is_public
    assert load({"host": host, "allow_public": True}, env={}, cwd=tmp_path).is_public


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_a_loopback_address_is_not_public(tmp_path: Path, host: str) -> None:
    assert not load({"host": host}, env={}, cwd=tmp_path).is_public


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = load(env={}, cwd=tmp_path)
    with pytest.raises(FrozenInstanceError):
        settings.port = 1  # type: ignore[misc]  # and so does mypy


def test_every_default_is_accepted_as_it_is_shown(tmp_path: Path) -> None:
    env = {one.env: one.default for one in declared() if one.name != "data_dir"}
    assert load(env=env, cwd=tmp_path) == load(env={}, cwd=tmp_path)


def test_every_setting_says_what_it_is() -> None:
    for one in declared():
        assert one.help, one.name
        assert one.accepts, one.name
        assert one.flag == "--" + one.env.removeprefix("ASYNCFLOW_").lower().replace(
            "_", "-"
        )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PORT", "1_847"),
        ("PORT", "8080.0"),
        ("WORKERS", "1e1"),
        ("FILL_LEVEL", "\u0665\u0660"),
        ("MAX_UPLOAD_BYTES", "1_000"),
        ("UPLOAD_EXPIRY", "99999999h"),
    ],
)
def test_a_number_is_read_strictly(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(BadSettings, match=name.lower()):
        load({}, env={f"ASYNCFLOW_{name}": text}, cwd=tmp_path)


def test_a_folder_where_the_file_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "asyncflow.toml").mkdir()

    with pytest.raises(BadSettings, match=r"asyncflow.toml is a folder"):
        load({}, env={}, cwd=tmp_path)


def test_what_may_hold_secrets_is_named_as_private(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x" * 32)
    env = {
        "ASYNCFLOW_TOKEN_FILE": "secret",
        "ASYNCFLOW_TLS_CERT": "cert.pem",
        "ASYNCFLOW_TLS_KEY": "key.pem",
    }

    found = load(env=env, cwd=tmp_path).private

    names = ("data", "asyncflow.toml", ".env", "secret", "key.pem")
    assert set(found) == {tmp_path / name for name in names}
