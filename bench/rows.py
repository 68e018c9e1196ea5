"""The rows of a table: what was measured, what it should be, and whether it is."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One number; `most` or `least` is the target, if there is one."""

    what: str
    value: float
    unit: str
    most: float | None = None
    least: float | None = None
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; None: there is none."""
        if self.most is not None:
            return self.value <= self.most
        if self.least is not None:
            return self.value >= self.least
        return None

    @property
    def target(self) -> str:
        """The target in words."""
        if self.most is not None:
            return f"<= {_short(self.most)} {self.unit}"
        if self.least is not None:
            return f">= {_short(self.least)} {self.unit}"
        return ""


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that *share* percent of *values* do not exceed (nearest rank).

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("there are no values to take a percentile of")
    rank = math.ceil(len(values) * share / 100)
    return sorted(values)[max(0, rank - 1)]


def spread(what: str, values: Sequence[float], unit: str = "ms") -> list[Row]:
    """Return p50, p99 and maximum of *values* as rows."""
    return [
        Row(what=f"{what} p50", value=percentile(values, 50), unit=unit),
        Row(what=f"{what} p99", value=percentile(values, 99), unit=unit),
        Row(what=f"{what} max", value=max(values), unit=unit),
    ]


def plain(name: str, rows: Iterable[Row]) -> str:
    """Return a table as lines of text."""
    verdicts = {True: "ok", False: "MISS", None: ""}
    cells = [("what", "measured", "target", "", "")]
    for row in rows:
        measured = f"{_short(row.value)} {row.unit}"
        cells.append((row.what, measured, row.target, verdicts[row.is_met], row.note))
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    lines = [name]
    for what, measured, target, verdict, note in cells:
        lines.append(
            f"  {what:<{widths[0]}}  {measured:>{widths[1]}}  {target:<{widths[2]}}"
            f"  {verdict:<{widths[3]}}  {note}".rstrip()
        )
    return "\n".join(lines)


def as_json(rows: Iterable[Row]) -> list[Mapping[str, object]]:
    """Return *rows* for a JSON file."""
    return [
        {
            "what": row.what,
            "value": row.value,
            "unit": row.unit,
            "target": row.target or None,
            "met": row.is_met,
            "note": row.note,
        }
        for row in rows
    ]


def _short(value: float) -> str:
    if abs(value) >= 100:  # noqa: PLR2004 -- three digits say enough
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.1f}"
