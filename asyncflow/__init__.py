"""Accept large files resumably, answer at once, process them in the background.

Public names load on first use (PEP 562): a pool worker imports this package too and
must not pay for the server.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncflow.client.api import Client as Client
    from asyncflow.client.failures import (
        BadAddress as BadAddress,
        BadToken as BadToken,
        RequestFailed as RequestFailed,
        ServerRefused as ServerRefused,
        ServerUnreachable as ServerUnreachable,
        SourceChanged as SourceChanged,
        UnexpectedAnswer as UnexpectedAnswer,
    )
    from asyncflow.client.messages import (
        Consumer as Consumer,
        Job as Job,
        Problem as Problem,
        Step as Step,
        Update as Update,
    )
    from asyncflow.client.session import Patience as Patience
    from asyncflow.client.sync import SyncClient as SyncClient
    from asyncflow.client.uploading import Progress as Progress
    from asyncflow.config import Settings as Settings
    from asyncflow.db.records import Change as Change
    from asyncflow.embedding import create_app as create_app, setup as setup
    from asyncflow.errors import (
        AsyncflowError as AsyncflowError,
        BadFile as BadFile,
        Skip as Skip,
        TryLater as TryLater,
        Unauthorized as Unauthorized,
    )
    from asyncflow.hooks import OwnedJob as OwnedJob
    from asyncflow.processors.base import (
        Derivative as Derivative,
        Options as Options,
        Result as Result,
        Task as Task,
        Work as Work,
        consumer as consumer,
        processor as processor,
        task as task,
    )
    from asyncflow.web.auth import Principal as Principal

__version__ = "0.1.0"

_NAMES = {
    "asyncflow.client.api": ("Client",),
    "asyncflow.client.failures": (
        "BadAddress",
        "BadToken",
        "RequestFailed",
        "ServerRefused",
        "ServerUnreachable",
        "SourceChanged",
        "UnexpectedAnswer",
    ),
    "asyncflow.client.messages": (
        "Consumer",
        "Job",
        "Problem",
        "Step",
        "Update",
    ),
    "asyncflow.client.session": ("Patience",),
    "asyncflow.client.sync": ("SyncClient",),
    "asyncflow.client.uploading": ("Progress",),
    "asyncflow.config": ("Settings",),
    "asyncflow.db.records": ("Change",),
    "asyncflow.embedding": ("create_app", "setup"),
    "asyncflow.errors": (
        "AsyncflowError",
        "BadFile",
        "Skip",
        "TryLater",
        "Unauthorized",
    ),
    "asyncflow.hooks": ("OwnedJob",),
    "asyncflow.processors.base": (
        "Derivative",
        "Options",
        "Result",
        "Task",
        "Work",
        "consumer",
        "processor",
        "task",
    ),
    "asyncflow.web.auth": ("Principal",),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [*_HOMES, "__version__"]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load a public name from the module that defines it."""
        if name not in _HOMES:
            raise AttributeError(f"module 'asyncflow' has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)

    def __dir__() -> list[str]:
        """List the public names, loaded or not: completion asks for them."""
        return list(__all__)
