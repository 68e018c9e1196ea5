"""Accept large files resumably, answer at once, process them in the background.

Public names load on first use (PEP 562): a pool worker imports this package too and
must not pay for the server.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncflow.processors.base import (
        Derivative as Derivative,
        Result as Result,
        Work as Work,
        processor as processor,
    )

__version__ = "0.1.0"

_HOMES = {
    "Derivative": "asyncflow.processors.base",
    "Result": "asyncflow.processors.base",
    "Work": "asyncflow.processors.base",
    "processor": "asyncflow.processors.base",
}

__all__ = [*_HOMES, "__version__"]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load a public name from the module that defines it."""
        if name not in _HOMES:
            raise AttributeError(f"module 'asyncflow' has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)
