"""What may be written as the value of a flag."""

import re
from typing import Any

import click


class WholeNumber(click.IntRange):
    """A range of whole numbers, written in plain digits: `int()` takes `1_000`."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the number. Fail for anything but digits."""
        if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,15}", value):
            self.fail(f"{value!r} is not a whole number", param, ctx)
        return int(super().convert(value, param, ctx))
