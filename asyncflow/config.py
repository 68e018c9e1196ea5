"""The settings: each declared once, read from flags, environment, `.env` and toml.

Rules
-----
- A flag beats an `ASYNCFLOW_*` variable, which beats `.env`, then `asyncflow.toml`,
  then the default.
- All bad values are reported at once, each with its name, value and what is accepted.
- A secret is never shown; `ASYNCFLOW_TOKEN_FILE` names a file that holds it.
- Only the edge of the program loads settings; everything else takes plain values.
"""

import difflib
import ipaddress
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
)
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from asyncflow.errors import BadSettings
from asyncflow.notation import (
    DAY,
    GIB,
    HOST,
    KIB,
    LANGUAGE,
    MEDIA_TYPE,
    MODULE,
    TOKEN,
    all_match,
    check_base_url,
    check_host,
    check_networks,
    check_origins,
    check_path,
    parse_bytes,
    parse_number,
    parse_seconds,
    shown_bytes,
    shown_seconds,
    split_words,
)

PREFIX = "ASYNCFLOW_"
TOML = "asyncflow.toml"
DOTENV = ".env"
DEFAULT = "default"
SECRETS = frozenset({"token"})

Number = Annotated[int, BeforeValidator(parse_number)]
Bytes = Annotated[int, BeforeValidator(parse_bytes)]
Seconds = Annotated[float, BeforeValidator(parse_seconds)]
File = Annotated[Path, BeforeValidator(check_path)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_words)]
Hosts = Annotated[Words, AfterValidator(all_match(HOST))]
Origins = Annotated[Words, AfterValidator(check_origins)]
Networks = Annotated[Words, AfterValidator(check_networks)]
Modules = Annotated[Words, AfterValidator(all_match(MODULE))]
Languages = Annotated[Words, AfterValidator(all_match(LANGUAGE))]
MediaTypes = Annotated[Words, AfterValidator(all_match(MEDIA_TYPE))]


def _check_token(value: SecretStr) -> SecretStr:
    if not TOKEN.fullmatch(value.get_secret_value()):
        raise ValueError("not a token")
    return value


SIZE = "bytes, such as 5GiB, 200MB or 4096"
LONGEST_S = 3650 * DAY
SPAN = "a duration above 0 and up to 3650d, such as 24h, 1h30m, 90s or 90 (seconds)"


def _setting(default: object, kind: str, meaning: str, accepts: str, **at: Any) -> Any:
    return Field(
        default,
        description=meaning,
        json_schema_extra={"kind": kind, "accepts": accepts},
        **at,
    )


def _number(default: int, meaning: str, least: int, most: int) -> Any:
    accepts = f"a whole number from {least} to {most}"
    return _setting(default, "number", meaning, accepts, ge=least, le=most)


def _bytes(default: int, meaning: str, least: int = 0) -> Any:
    accepts = f"{SIZE}, at least {least}"
    return _setting(default, "size", meaning, accepts, ge=least)


def _span(default: float, meaning: str) -> Any:
    bounds = {"gt": 0, "le": LONGEST_S, "allow_inf_nan": False}
    return _setting(default, "duration", meaning, SPAN, **bounds)


def _age(meaning: str) -> Any:
    accepts = "0, or a duration up to 3650d, such as 30d, 24h or 90 (seconds)"
    bounds = {"ge": 0, "le": LONGEST_S, "allow_inf_nan": False}
    return _setting(0.0, "duration", meaning, accepts, **bounds)


def _choice(default: str, meaning: str, *others: str) -> Any:
    return _setting(default, "choice", meaning, "one of " + ", ".join(others))


class Settings(BaseSettings):
    """All settings, immutable. Constructing one reads nothing; `load` does."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True
    )
    _origins: Mapping[str, str] = PrivateAttr(default_factory=dict)
    _files: tuple[Path, ...] = PrivateAttr(default=())

    def __init__(
        self,
        *,
        origins: Mapping[str, str] | None = None,
        files: tuple[Path, ...] = (),
        **values: Any,
    ) -> None:
        """Take settings by keyword; *origins* says where each of them came from.

        *files* are those that may hold settings.

        Raises:
            BadSettings: with one line for each thing that is wrong.
        """
        try:
            super().__init__(**values)
        except ValidationError as bad:
            lines = [_sentence(error, origins) for error in bad.errors()]
            # without its cause, which says the same in other words
            raise BadSettings("\n".join(lines)) from None
        self._origins = origins or {}
        self._files = files

    host: Annotated[str, AfterValidator(check_host)] = _setting(
        "127.0.0.1", "text", "address to listen on", "an address or a host name"
    )
    port: Number = _number(8080, "TCP port to listen on; 0 picks a free one", 0, 65535)
    data_dir: Annotated[Path, BeforeValidator(check_path)] = _setting(
        Path("data"), "path", "folder for everything the server keeps", "a path"
    )
    workers: Number = _number(
        0, "processes that work on files; 0: one per core", 0, 1024
    )
    workers_min: Number = _number(
        1, "of those, processes that are kept also when there is nothing to do", 1, 1024
    )
    processors: Modules = _setting(
        (),
        "list",
        "modules of your own whose processors the workers load; installed, or in the"
        " folder where the server starts",
        "names of Python modules such as my_processors, separated by commas",
    )
    pipelines: File | None = _setting(
        None,
        "path",
        "file that says which consumers a file meets, and how they work",
        "a file in TOML, as docs/howto/shape-pipelines.md describes it",
    )
    token: Annotated[SecretStr, AfterValidator(_check_token)] | None = _setting(
        None,
        "secret",
        "secret that every request must carry; unset: only listing and admin need the"
        " one in <data-dir>/token",
        "8 or more visible ASCII characters",
    )
    public_url: Annotated[str, AfterValidator(check_base_url)] | None = _setting(
        None,
        "text",
        "address under which clients reach the server; unset: links are relative",
        "an http or https address without a query, such as https://files.example.org",
    )
    allowed_hosts: Hosts = _setting(
        (),
        "list",
        "further names that a Host header may hold",
        "host names without a port, separated by commas",
    )
    allowed_origins: Origins = _setting(
        (),
        "list",
        "origins of web pages that may use the server from a browser (CORS)",
        "origins such as https://app.example.org, separated by commas",
    )
    allow_public: bool = _setting(
        False,  # noqa: FBT003 -- the default of a switch
        "switch",
        "listen where others can reach the server although no token is set",
        "true or false",
    )
    trusted_proxies: Networks = _setting(
        (),
        "list",
        "reverse proxies that are believed when they say who the client is"
        " (X-Forwarded-For, -Proto, -Host, Forwarded)",
        "addresses or networks such as 127.0.0.1 or 10.0.0.0/8, separated by commas",
    )
    tls_cert: File | None = _setting(
        None,
        "path",
        "certificate, with its chain, to serve https by, read again when it is renewed;"
        " unset: http",
        "a file in PEM form; then tls_key too",
    )
    tls_key: File | None = _setting(
        None, "path", "private key of tls_cert", "a file in PEM form; then tls_cert too"
    )
    max_upload_bytes: Bytes = _bytes(5 * GIB, "size of the largest file taken", 1)
    allowed_types: MediaTypes = _setting(
        (),
        "list",
        "media types taken, * and ? as wildcards; empty: all",
        "media types such as image/*, separated by commas",
    )
    max_pixels: Number = _number(
        100_000_000,
        "pixels of a picture, all frames of an animation together; of a page of a TIFF",
        1,
        10**12,
    )
    max_pages: Number = _number(2000, "pages of a PDF or TIFF", 1, 10**6)
    text_engine: Literal["auto", "tesserocr", "pytesseract"] = _choice(
        "auto", "program that reads text", "auto", "tesserocr", "pytesseract"
    )
    text_languages: Languages = _setting(
        ("eng",),
        "list",
        "languages that text is read in; their data must be installed",
        "codes of three letters such as eng,deu",
    )
    text_images: Literal["auto", "always", "never"] = _choice(
        "auto",
        "whether pictures are read; auto: those that look like pages",
        "auto",
        "always",
        "never",
    )
    backlog_limit: Number = _number(
        10_000,
        "waiting steps above which new work is refused, and of delayed tasks as many;"
        " one client, owner or tenant has at most four fifths of either",
        1,
        10**9,
    )
    fill_level: Number = _number(
        90, "percent of the disk in use above which new files are refused", 1, 100
    )
    open_uploads: Number = _number(
        1000, "unfinished uploads that one client may have", 1, 10**9
    )
    quota_bytes: Bytes = _bytes(
        0, "bytes that may be stored, results included; 0: as many as the disk takes"
    )
    tenant_quota_bytes: Bytes = _bytes(
        0, "bytes that may be stored for one tenant; 0: any"
    )
    keep_originals: Seconds = _age(
        "after a job's end its original is removed, its results stay; 0: never"
    )
    keep_jobs: Seconds = _age(
        "after its end a job is removed with all its files; 0: never"
    )
    sweep_every: Seconds = _span(DAY, "how often bytes that no job names are removed")
    upload_expiry: Seconds = _span(DAY, "after this an unfinished upload is removed")
    tenant_running: Number = _number(
        0, "steps of one tenant that may run at once; 0: any", 0, 10**6
    )
    node: str = _setting(
        "local",
        "text",
        "name of this server among those of one database that differ in their code",
        "1 to 100 letters, digits, dots, dashes and underscores",
        pattern=r"^[A-Za-z0-9._-]{1,100}$",
    )
    attempts: Number = _number(3, "tries at a step before it is dead", 1, 100)
    lease: Seconds = _span(30.0, "time a step stays claimed without a heartbeat")
    load_timeout: Seconds = _span(
        60.0, "longest time for a worker to load the modules of processors"
    )
    wall_image: Seconds = _span(60.0, "longest time for one picture")
    slot_memory_bytes: Bytes = _bytes(
        0, "memory of one worker process; 0: its share of the machine"
    )
    worker_runs: Number = _number(
        20_000, "runs after which a worker makes room for a new one", 1, 1_000_000
    )
    header_timeout: Seconds = _span(10.0, "longest time for the head of a request")
    idle_timeout: Seconds = _span(75.0, "after this an idle connection is closed")
    body_min_rate: Bytes = _bytes(
        KIB, "bytes a second that a body must bring, over 30 s; 0: any"
    )
    grace: Seconds = _span(30.0, "time for running work when the server is stopped")
    max_connections: Number = _number(10_000, "connections open at once", 1, 10**6)
    max_sockets: Number = _number(
        10_000, "WebSockets and event streams open at once", 1, 10**6
    )
    log_level: Literal["debug", "info", "warning", "error"] = _choice(
        "info", "least severity that is logged", "debug", "info", "warning", "error"
    )
    log_format: Literal["auto", "console", "json"] = _choice(
        "auto",
        "form of the log; auto: for people on a terminal, else JSON",
        "auto",
        "console",
        "json",
    )
    loop: Literal["uvloop", "asyncio"] = _choice(
        "uvloop", "event loop to run on", "uvloop", "asyncio"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take only what is passed in: `load` reads the sources and notes origins."""
        return (init_settings,)

    @property
    def is_public(self) -> bool:
        """Whether others than this machine can reach the address listened on."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return True

    @property
    def private(self) -> tuple[Path, ...]:
        """The files and folders that are nobody's business but the server's."""
        key = () if self.tls_key is None else (self.tls_key,)
        return (self.data_dir, *self._files, *key)

    def show(self) -> tuple["Shown", ...]:
        """Return every setting with its value as text and where it came from."""
        return tuple(
            Shown(
                name=one.name,
                value=_text(one.name, one.kind, getattr(self, one.name)),
                origin=self._origins.get(one.name, DEFAULT),
            )
            for one in declared()
        )


# ----- what is declared, for the command line and the documentation


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """One setting as it is declared; `default` is text as a person would write it.

    `kind` is one of number, size, duration, list, path, secret, switch, text, choice;
    only a choice has `choices`.
    """

    name: str
    env: str
    flag: str
    kind: str
    default: str
    accepts: str
    help: str
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One setting as it is in force; `origin` is a flag, variable, file or default."""

    name: str
    value: str
    origin: str


def declared() -> Iterator[Declared]:
    """Yield every setting, in the order of the documentation."""
    for name, field in Settings.model_fields.items():
        facts = field.json_schema_extra
        assert isinstance(facts, dict)  # noqa: S101 -- _setting made it
        yield Declared(
            name=name,
            env=PREFIX + name.upper(),
            flag="--" + name.replace("_", "-"),
            kind=str(facts["kind"]),
            default=_text(name, str(facts["kind"]), field.default),
            accepts=str(facts["accepts"]),
            help=field.description or "",
            choices=(get_args(field.annotation) if facts["kind"] == "choice" else ()),
        )


def _text(name: str, kind: str, value: Any) -> str:
    if value is None or value == ():
        return ""
    if name in SECRETS:
        return "(hidden)"
    match kind:
        case "size":
            return shown_bytes(value)
        case "duration":
            return shown_seconds(value)
        case "list":
            return ",".join(value)
        case "switch":
            return "true" if value else "false"
        case _:
            return str(value)


# ----- reading the sources


def load(
    flags: Mapping[str, object] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Settings:
    """Read all sources and return the settings in force.

    *flags* maps names to values (None: not given); *env* is `os.environ` and *cwd* the
    current folder unless given. A relative `data_dir` is taken from *cwd*.

    Raises:
        BadSettings: with one line for each thing that is wrong.
    """
    here = Path.cwd() if cwd is None else cwd
    given = _Given()
    given.add_files(here)
    given.add_variables(os.environ if env is None else env, here)
    given.add_flags(flags or {})
    problems = given.problems
    folder = given.values.setdefault("data_dir", "data")
    if folder and isinstance(folder, str | Path) and "\0" not in str(folder):
        given.values["data_dir"] = here / Path(folder).expanduser()
    for name in ("pipelines", "tls_cert", "tls_key"):
        file = given.values.get(name)
        if isinstance(file, str | Path) and file and "\0" not in str(file):
            given.values[name] = here / Path(file).expanduser()
    try:
        files = tuple(given.files)
        settings = Settings(origins=given.origins, files=files, **given.values)
    except BadSettings as bad:
        problems += bad.detail.splitlines()
    else:
        problems += _conflicts(settings)
        if not problems:
            return settings
    raise BadSettings("\n".join(problems))


class _Given:
    """What the sources said so far; a source added later wins."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.files: list[Path] = []
        self.problems: list[str] = []

    def add_files(self, here: Path) -> None:
        """Take `asyncflow.toml`, then `.env`, from the folder *here*."""
        self.files += [here / TOML, here / DOTENV]
        if (here / TOML).is_dir():
            self.problems.append(f"{TOML} is a folder; accepted: a file, or none")
        try:
            toml = TomlConfigSettingsSource(Settings, here / TOML)()
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as bad:
            self.problems.append(f"{TOML} cannot be read: {bad}")
            toml = {}
        known = Settings.model_fields.keys()
        self.problems += [_unknown(key, TOML) for key in toml.keys() - known]
        self._take({k: v for k, v in toml.items() if k in known}, TOML)
        try:
            dotenv = DotEnvSettingsSource(Settings, env_file=here / DOTENV)
        except (OSError, UnicodeDecodeError) as bad:
            self.problems.append(f"{DOTENV} cannot be read: {bad}")
        else:
            names = {k.upper(): v for k, v in dotenv.env_vars.items() if v}
            self._take_variables(names, here, DOTENV)

    def add_variables(self, env: Mapping[str, str], here: Path) -> None:
        """Take the `ASYNCFLOW_*` variables; an empty one counts as not given."""
        named = {k.upper(): v for k, v in env.items() if v}
        self._take_variables(named, here, "")

    def add_flags(self, flags: Mapping[str, object]) -> None:
        """Take the flags; None and an empty list count as not given."""
        for name, value in flags.items():
            if value is not None and value != ():
                self.values[name] = value
                self.origins[name] = "--" + name.replace("_", "-")

    def _take(self, values: Mapping[str, object], origin: str) -> None:
        self.values |= values
        for name in values:
            self.origins[name] = origin or PREFIX + name.upper()

    def _take_variables(self, env: Mapping[str, str], here: Path, origin: str) -> None:
        source = EnvSettingsSource(Settings)
        source.env_vars = {name.lower(): value for name, value in env.items()}
        self._take(source(), origin)
        self._take_secret_files(env, here)
        for name in env:
            near = _near(name.removeprefix(PREFIX).lower())
            known = name.removesuffix("_FILE").removeprefix(PREFIX).lower()
            if name.startswith(PREFIX) and near and known not in Settings.model_fields:
                where = origin or "the environment"
                self.problems.append(_unknown(name, where))

    def _take_secret_files(self, env: Mapping[str, str], here: Path) -> None:
        for name in SECRETS:
            twin = f"{PREFIX}{name.upper()}_FILE"
            if twin not in env:
                continue
            if PREFIX + name.upper() in env:
                self.problems.append(f"{name} and {twin} are both given; accepted: one")
                continue
            self.files.append(here / env[twin])
            try:
                secret = (here / env[twin]).read_text(encoding="utf-8").strip()
            except (OSError, ValueError) as bad:
                self.problems.append(f"{twin} names a file that cannot be read: {bad}")
            else:
                self.values[name], self.origins[name] = secret, twin


def _near(key: str) -> str | None:
    close = difflib.get_close_matches(
        key.replace("-", "_"), Settings.model_fields, n=1, cutoff=0.75
    )
    return close[0] if close else None


def _unknown(key: str, where: str) -> str:
    bare = key.removeprefix(PREFIX).lower()
    near = _near(bare)
    if near and key.startswith(PREFIX):
        near = PREFIX + near.upper()
    hint = f"; did you mean {near}?" if near else "; see `asyncflow settings`"
    return f"{key} in {where} is no setting{hint}"


def _sentence(error: Any, origins: Mapping[str, str] | None) -> str:
    name = str(error["loc"][0])
    field = Settings.model_fields.get(name)
    if field is None:
        where = "the arguments" if origins is None else origins.get(name, "the flags")
        return _unknown(name, where)
    facts = field.json_schema_extra
    accepts = facts["accepts"] if isinstance(facts, dict) else ""
    value = "(hidden)" if name in SECRETS else repr(error["input"])
    where = "" if origins is None else f" (from {origins.get(name, DEFAULT)})"
    return f"{name} is {value}{where}; accepted: {accepts}"


def _conflicts(settings: Settings) -> Iterator[str]:
    if (settings.tls_cert is None) != (settings.tls_key is None):
        given = "tls_cert" if settings.tls_key is None else "tls_key"
        yield f"only {given} is set; accepted: tls_cert and tls_key together, or none"
    if settings.is_public and settings.token is None and not settings.allow_public:
        yield (
            f"host is {settings.host!r}, which others can reach, and no token is set;"
            f" accepted: with {PREFIX}TOKEN, or with --allow-public"
        )
