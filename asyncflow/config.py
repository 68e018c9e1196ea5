"""The settings: each declared once, read from flags, environment, `.env` and toml.

Rules
-----
- A flag beats an `ASYNCFLOW_*` variable, which beats `.env`, then `asyncflow.toml`,
  then the default.
- All bad values are reported at once, each with its name, value and what is accepted.
- A secret is never shown; `ASYNCFLOW_TOKEN_FILE` names a file that holds it.
- Only the edge of the program loads settings; everything else takes plain values.
"""

import ipaddress
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Final

from asyncflow import kinds
from asyncflow.errors import BadSettings
from asyncflow.notation import (
    DAY,
    GIB,
    HOST,
    KIB,
    LANGUAGE,
    MEDIA_TYPE,
    MODULE,
    NODE,
    TOKEN,
    check_networks,
    check_origins,
)

PREFIX = "ASYNCFLOW_"
TOML = "asyncflow.toml"
DOTENV = ".env"
DEFAULT = "default"


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class Settings:
    """All settings, immutable. Constructing one reads nothing; `load` does.

    `origins` says where each of them came from, None: from a program. `files` are those
    that may hold settings.
    """

    host: Annotated[
        str, kinds.host("address to listen on", "an address or a host name")
    ] = "127.0.0.1"
    port: Annotated[
        int, kinds.number("TCP port to listen on; 0 picks a free one", 0, 65535)
    ] = 8080
    data_dir: Annotated[
        Path,
        kinds.place(
            "folder for everything the server keeps", "a path", is_optional=False
        ),
    ] = Path("data")
    workers: Annotated[
        int, kinds.number("processes that work on files; 0: one per core", 0, 1024)
    ] = 0
    workers_min: Annotated[
        int,
        kinds.number(
            "of those, processes that are kept also when there is nothing to do",
            1,
            1024,
        ),
    ] = 1
    processors: Annotated[
        tuple[str, ...],
        kinds.words(
            "modules of your own whose processors the workers load; installed, or in"
            " the folder where the server starts",
            "names of Python modules such as my_processors, separated by commas",
            MODULE,
        ),
    ] = ()
    pipelines: Annotated[
        Path | None,
        kinds.place(
            "file that says which consumers a file meets, and how they work",
            "a file in TOML, as docs/howto/shape-pipelines.md describes it",
        ),
    ] = None
    token: Annotated[
        kinds.Secret | None,
        kinds.secret(
            "secret that every request must carry; unset: only listing and admin need"
            " the one in <data-dir>/token",
            "8 or more visible ASCII characters",
            TOKEN,
        ),
    ] = None
    public_url: Annotated[
        str | None,
        kinds.base_url(
            "address under which clients reach the server; unset: links are relative",
            "an http or https address without a query, such as https://files.example.org",
        ),
    ] = None
    allowed_hosts: Annotated[
        tuple[str, ...],
        kinds.words(
            "further names that a Host header may hold",
            "host names without a port, separated by commas",
            HOST,
        ),
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...],
        kinds.words(
            "origins of web pages that may use the server from a browser (CORS)",
            "origins such as https://app.example.org, separated by commas",
            check_origins,
        ),
    ] = ()
    allow_public: Annotated[
        bool,
        kinds.switch(
            "listen where others can reach the server although no token is set"
        ),
    ] = False
    trusted_proxies: Annotated[
        tuple[str, ...],
        kinds.words(
            "reverse proxies that are believed when they say who the client is"
            " (X-Forwarded-For, -Proto, -Host, Forwarded)",
            "addresses or networks such as 127.0.0.1 or 10.0.0.0/8, separated by"
            " commas",
            check_networks,
        ),
    ] = ()
    tls_cert: Annotated[
        Path | None,
        kinds.place(
            "certificate, with its chain, to serve https by, read again when it is"
            " renewed; unset: http",
            "a file in PEM form; then tls_key too",
        ),
    ] = None
    tls_key: Annotated[
        Path | None,
        kinds.place("private key of tls_cert", "a file in PEM form; then tls_cert too"),
    ] = None
    max_upload_bytes: Annotated[
        int, kinds.size("size of the largest file taken", 1)
    ] = 5 * GIB
    allowed_types: Annotated[
        tuple[str, ...],
        kinds.words(
            "media types taken, * and ? as wildcards; empty: all",
            "media types such as image/*, separated by commas",
            MEDIA_TYPE,
        ),
    ] = ()
    max_pixels: Annotated[
        int,
        kinds.number(
            "pixels of a picture, all frames of an animation together; of a page of a"
            " TIFF",
            1,
            10**12,
        ),
    ] = 100_000_000
    max_pages: Annotated[int, kinds.number("pages of a PDF or TIFF", 1, 10**6)] = 2000
    text_engine: Annotated[
        str, kinds.choice("program that reads text", "auto", "tesserocr", "pytesseract")
    ] = "auto"
    text_languages: Annotated[
        tuple[str, ...],
        kinds.words(
            "languages that text is read in; their data must be installed",
            "codes of three letters such as eng,deu",
            LANGUAGE,
        ),
    ] = ("eng",)
    text_images: Annotated[
        str,
        kinds.choice(
            "whether pictures are read; auto: those that look like pages",
            "auto",
            "always",
            "never",
        ),
    ] = "auto"
    backlog_limit: Annotated[
        int,
        kinds.number(
            "waiting steps above which new work is refused, and of delayed tasks as"
            " many; one client, owner or tenant has at most four fifths of either",
            1,
            10**9,
        ),
    ] = 10_000
    fill_level: Annotated[
        int,
        kinds.number(
            "percent of the disk in use above which new files are refused", 1, 100
        ),
    ] = 90
    open_uploads: Annotated[
        int, kinds.number("unfinished uploads that one client may have", 1, 10**9)
    ] = 1000
    quota_bytes: Annotated[
        int,
        kinds.size(
            "bytes that may be stored, results included; 0: as many as the disk takes"
        ),
    ] = 0
    tenant_quota_bytes: Annotated[
        int, kinds.size("bytes that may be stored for one tenant; 0: any")
    ] = 0
    keep_originals: Annotated[
        float,
        kinds.age(
            "after a job's end its original is removed, its results stay; 0: never"
        ),
    ] = 0.0
    keep_jobs: Annotated[
        float, kinds.age("after its end a job is removed with all its files; 0: never")
    ] = 0.0
    sweep_every: Annotated[
        float, kinds.span("how often bytes that no job names are removed")
    ] = DAY
    upload_expiry: Annotated[
        float, kinds.span("after this an unfinished upload is removed")
    ] = DAY
    tenant_running: Annotated[
        int, kinds.number("steps of one tenant that may run at once; 0: any", 0, 10**6)
    ] = 0
    node: Annotated[
        str,
        kinds.word(
            "name of this server among those of one database that differ in their code",
            "1 to 100 letters, digits, dots, dashes and underscores",
            NODE,
        ),
    ] = "local"
    attempts: Annotated[
        int, kinds.number("tries at a step before it is dead", 1, 100)
    ] = 3
    lease: Annotated[
        float, kinds.span("time a step stays claimed without a heartbeat")
    ] = 30.0
    load_timeout: Annotated[
        float, kinds.span("longest time for a worker to load the modules of processors")
    ] = 60.0
    wall_image: Annotated[float, kinds.span("longest time for one picture")] = 60.0
    slot_memory_bytes: Annotated[
        int, kinds.size("memory of one worker process; 0: its share of the machine")
    ] = 0
    worker_runs: Annotated[
        int,
        kinds.number(
            "runs after which a worker makes room for a new one", 1, 1_000_000
        ),
    ] = 20_000
    header_timeout: Annotated[
        float, kinds.span("longest time for the head of a request")
    ] = 10.0
    idle_timeout: Annotated[
        float, kinds.span("after this an idle connection is closed")
    ] = 75.0
    body_min_rate: Annotated[
        int, kinds.size("bytes a second that a body must bring, over 30 s; 0: any")
    ] = KIB
    grace: Annotated[
        float, kinds.span("time for running work when the server is stopped")
    ] = 30.0
    max_connections: Annotated[
        int, kinds.number("connections open at once", 1, 10**6)
    ] = 10_000
    max_sockets: Annotated[
        int, kinds.number("WebSockets and event streams open at once", 1, 10**6)
    ] = 10_000
    log_level: Annotated[
        str,
        kinds.choice(
            "least severity that is logged", "debug", "info", "warning", "error"
        ),
    ] = "info"
    log_format: Annotated[
        str,
        kinds.choice(
            "form of the log; auto: for people on a terminal, else JSON",
            "auto",
            "console",
            "json",
        ),
    ] = "auto"
    loop: Annotated[str, kinds.choice("event loop to run on", "uvloop", "asyncio")] = (
        "uvloop"
    )
    origins: Mapping[str, str] | None = field(default=None, compare=False, repr=False)
    files: tuple[Path, ...] = field(default=(), compare=False, repr=False)

    def __init__(
        self,
        *,
        origins: Mapping[str, str] | None = None,
        files: tuple[Path, ...] = (),
        **values: Any,
    ) -> None:
        """Take settings by keyword; those that are not given have their defaults.

        Raises:
            BadSettings: with one line for each thing that is wrong.
        """
        keep = object.__setattr__  # what is frozen is set like this, once
        keep(self, "origins", origins)
        keep(self, "files", files)
        wrong = []
        for name, (kind, default) in _DECLARED.items():
            try:
                value = kind.read(values[name]) if name in values else default
            except kinds.NotAccepted as bad:
                wrong.append(_sentence(name, kind, bad.value, origins))
            else:
                keep(self, name, value)
        for name in [name for name in values if name not in _DECLARED]:
            where = (
                "the arguments" if origins is None else origins.get(name, "the flags")
            )
            wrong.append(_unknown(name, where))
        if wrong:
            raise BadSettings("\n".join(wrong))

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
        return (self.data_dir, *self.files, *key)

    def show(self) -> tuple["Shown", ...]:
        """Return every setting with its value as text and where it came from."""
        origins = self.origins or {}
        return tuple(
            Shown(
                name=name,
                value=kind.shown(getattr(self, name)),
                origin=origins.get(name, DEFAULT),
            )
            for name, (kind, _) in _DECLARED.items()
        )


#: name -> its kind and its default
_DECLARED: Final[Mapping[str, tuple[kinds.Kind, Any]]] = {
    one.name: (one.type.__metadata__[0], one.default)
    for one in fields(Settings)
    if hasattr(one.type, "__metadata__")
}


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
    for name, (kind, default) in _DECLARED.items():
        yield Declared(
            name=name,
            env=PREFIX + name.upper(),
            flag="--" + name.replace("_", "-"),
            kind=kind.name,
            default=kind.shown(default),
            accepts=kind.accepts,
            help=kind.meaning,
            choices=kind.choices,
        )


# ----- reading the sources


def load(
    flags: Mapping[str, object] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Settings:
    """Read all sources and return the settings in force.

    *flags* maps names to values (None: not given); *env* is `os.environ` and *cwd* the
    current folder unless given. Relative paths are taken from *cwd*.

    Raises:
        BadSettings: with one line for each thing that is wrong.
    """
    here = Path.cwd() if cwd is None else cwd
    given = _Given()
    given.add_files(here)
    given.add_variables(os.environ if env is None else env, here)
    given.add_flags(flags or {})
    given.place(here)
    problems = given.problems
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
        toml = self._toml(here / TOML)
        known = {k.lower(): v for k, v in toml.items() if k.lower() in _DECLARED}
        self._take(known, TOML)
        self.problems += [_unknown(k, TOML) for k in toml if k.lower() not in known]
        try:
            variables = _variables(here / DOTENV)
        except (OSError, UnicodeDecodeError) as bad:
            self.problems.append(f"{DOTENV} cannot be read: {bad}")
        else:
            self._take_variables(variables, here, DOTENV)

    def _toml(self, path: Path) -> Mapping[str, object]:
        if path.is_dir():
            self.problems.append(f"{TOML} is a folder; accepted: a file, or none")
        if not path.is_file():
            return {}
        try:
            return tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as bad:
            self.problems.append(f"{TOML} cannot be read: {bad}")
            return {}

    def add_variables(self, env: Mapping[str, str], here: Path) -> None:
        """Take the `ASYNCFLOW_*` variables; an empty one counts as not given."""
        self._take_variables(env, here, "")

    def add_flags(self, flags: Mapping[str, object]) -> None:
        """Take the flags; None and an empty list count as not given."""
        for name, value in flags.items():
            if value is not None and value != ():
                self.values[name] = value
                self.origins[name] = "--" + name.replace("_", "-")

    def place(self, here: Path) -> None:
        """Take relative paths from *here*, that of the default folder too."""
        for name, (kind, default) in _DECLARED.items():
            path = self.values.get(name, default)
            is_usable = isinstance(path, str | Path) and path and "\0" not in str(path)
            if kind.name != "path" or not is_usable:
                continue
            try:
                self.values[name] = here / Path(path).expanduser()
            except RuntimeError:  # of ~somebody
                self.problems.append(
                    f"{name} is {str(path)!r}, and nobody is called so"
                )

    def _take(self, values: Mapping[str, object], origin: str) -> None:
        self.values |= values
        for name in values:
            self.origins[name] = origin or PREFIX + name.upper()

    def _take_variables(
        self, env: Mapping[str, str | None], here: Path, origin: str
    ) -> None:
        found = {name.upper(): value for name, value in env.items() if value}
        found = {k: v for k, v in found.items() if k.startswith(PREFIX)}
        named = {k.removeprefix(PREFIX).lower(): v for k, v in found.items()}
        self._take({k: v for k, v in named.items() if k in _DECLARED}, origin)
        self._take_secret_files(found, here)
        for name in named:
            if name.removesuffix("_file") not in _DECLARED and _near(name):
                where = origin or "the environment"
                self.problems.append(_unknown(PREFIX + name.upper(), where))

    def _take_secret_files(self, env: Mapping[str, str], here: Path) -> None:
        for name, (kind, _) in _DECLARED.items():
            twin = f"{PREFIX}{name.upper()}_FILE"
            if kind.name != "secret" or twin not in env:
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


def _variables(path: Path) -> Mapping[str, str | None]:
    """Return what the file *path* sets, if there is one; it may be a pipe, too."""
    if not (path.is_file() or path.is_fifo()):
        return {}
    from dotenv import dotenv_values  # noqa: PLC0415 -- most servers have no such file

    return dotenv_values(path, encoding="utf-8")


def _near(key: str) -> str | None:
    import difflib  # noqa: PLC0415 -- only who mistypes a name needs it

    close = difflib.get_close_matches(
        key.replace("-", "_"), _DECLARED, n=1, cutoff=0.75
    )
    return close[0] if close else None


def _unknown(key: str, where: str) -> str:
    bare = key.removeprefix(PREFIX).lower()
    near = _near(bare)
    if near and key.startswith(PREFIX):
        near = PREFIX + near.upper()
    hint = f"; did you mean {near}?" if near else "; see `asyncflow settings`"
    return f"{key} in {where} is no setting{hint}"


def _sentence(
    name: str, kind: kinds.Kind, value: object, origins: Mapping[str, str] | None
) -> str:
    told = kinds.HIDDEN if kind.name == "secret" else repr(value)
    where = "" if origins is None else f" (from {origins.get(name, DEFAULT)})"
    return f"{name} is {told}{where}; accepted: {kind.accepts}"


def _conflicts(settings: Settings) -> Iterator[str]:
    if (settings.tls_cert is None) != (settings.tls_key is None):
        given = "tls_cert" if settings.tls_key is None else "tls_key"
        yield f"only {given} is set; accepted: tls_cert and tls_key together, or none"
    if settings.is_public and settings.token is None and not settings.allow_public:
        yield (
            f"host is {settings.host!r}, which others can reach, and no token is set;"
            f" accepted: with {PREFIX}TOKEN, or with --allow-public"
        )
