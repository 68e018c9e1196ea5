"""`Expect: 100-continue`: who says `100 Continue`, and when.

aiohttp says it before anybody has looked at a request, also where no route will take
its body. So the field is put aside before aiohttp sees it, and whoever reads the body
says it, with `asyncflow.web.bodies.BodyReader`.
"""

from collections.abc import Callable
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11, RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy

_expects: Final = web.RequestKey("expects", bool)


def put_aside(
    make: Callable[..., web.BaseRequest],
) -> Callable[..., web.BaseRequest]:
    """Return a maker of requests that makes those of *make*, without the field."""

    def patient(message: RawRequestMessage, *more: Any) -> web.BaseRequest:
        said = message.headers.get(hdrs.EXPECT)
        if said is None:
            return make(message, *more)
        headers = CIMultiDict(message.headers)
        del headers[hdrs.EXPECT]
        request = make(message._replace(headers=CIMultiDictProxy(headers)), *more)
        request[_expects] = said.lower() == "100-continue"
        return request

    return patient


def waits(request: web.BaseRequest) -> bool:
    """Tell whether the client waits for a word before it sends the body."""
    if request.version < HttpVersion11:
        return False
    said = request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"
    return said or bool(request.get(_expects))
