"""Where routes find what they serve: typed keys of the application."""

from typing import Final

from aiohttp import web

from asyncflow.runtime import Runtime
from asyncflow.web.fastpath import FastPath

runtime_key: Final = web.AppKey("runtime", Runtime)
fast_key: Final = web.AppKey("fast", FastPath)
