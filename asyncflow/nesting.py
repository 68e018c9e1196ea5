"""How deep JSON is nested, told from its bytes, so that none is met that is too deep.

Pure. Every decoder and encoder has its own limit, which depends on how deep the calls
are that it is in: what one part of the server has taken, another could not show.
"""

import re
from typing import Final

#: levels of lists and objects that a payload or a result may have
MOST_LEVELS: Final = 100
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_ALIKE: Final = bytes.maketrans(b"{}", b"[]")
_OTHERS: Final = bytes(set(range(256)) - set(b"[]{}"))


def is_too_deep(data: bytes | bytearray, *, outside: int = 0) -> bool:
    """Tell whether valid JSON has too many levels; *outside*: how many are not its own.

    Each turn takes the innermost level away.
    """
    most = MOST_LEVELS + outside
    if data.count(b"[") + data.count(b"{") <= most:
        return False
    rest = _STRING.sub(b"", data).translate(_ALIKE, _OTHERS)
    for _level in range(most):
        if not rest:
            return False
        rest = rest.replace(b"[]", b"")
    return bool(rest)
