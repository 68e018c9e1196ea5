"""Where routes find what they serve: typed keys of the application."""

from typing import Final

from aiohttp import web

from asyncflow.runtime import Runtime
from asyncflow.web.digests import FileDigests
from asyncflow.web.fastpath import FastPath
from asyncflow.web.wholes import Wholes

runtime_key: Final = web.AppKey("runtime", Runtime)
fast_key: Final = web.AppKey("fast", FastPath)
digests_key: Final = web.AppKey("digests", FileDigests)
#: of small bodies of JSON, and of chunks in JSON: the ones keep the others not out
orders_key: Final = web.AppKey("orders", Wholes)
chunks_key: Final = web.AppKey("chunks", Wholes)
