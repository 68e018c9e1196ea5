"""The parts of these pages that are drawn from the program when they are built.

`{states} JobState` becomes a diagram and a table of a state machine: both come from the
transition tables that the program itself runs by, so they cannot be out of date.
"""

from collections.abc import Mapping
from html import escape
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from asyncflow import jobs, uploads

Machine = Mapping[Any, Mapping[str, Any]]

MACHINES: Mapping[str, Machine] = {
    "JobState": jobs.JOB_TRANSITIONS,
    "StepState": jobs.STEP_TRANSITIONS,
    "UploadState": uploads.UPLOAD_TRANSITIONS,
}

ROW, BOX_WIDTH, BOX_HEIGHT, LANE = 54, 130, 30, 22


def moves(machine: Machine) -> list[tuple[str, str, str]]:
    """Return every move as (from, what happens, to), in the order declared."""
    return [
        (str(state), what, str(to))
        for state, row in machine.items()
        for what, to in row.items()
    ]


def diagram(machine: Machine) -> str:
    """Return the machine as SVG: states in a column, moves as arcs beside it.

    Moves downwards bow to the right, moves upwards to the left; each pair of states
    has one arc, whatever number of reasons leads along it.
    """
    rows = {str(state): n for n, state in enumerate(machine)}
    pairs = sorted({(rows[a], rows[b]) for a, _, b in moves(machine)})
    reach = max((abs(a - b) for a, b in pairs), default=1)
    left = LANE * (reach + 1)
    width, height = 2 * left + BOX_WIDTH, ROW * len(rows)
    arcs = [_arc(a, b, left) for a, b in pairs]
    boxes = [_box(name, n, left) for name, n in rows.items()]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" '
        'fill="none" stroke="currentColor">'
        f"<title>States and moves; the table below says the same in words</title>"
        f"{''.join(arcs)}{''.join(boxes)}</svg>"
    )


def _box(name: str, row: int, left: int) -> str:
    y = row * ROW + (ROW - BOX_HEIGHT) // 2
    return (
        f'<rect x="{left}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"/>'
        f'<text x="{left + BOX_WIDTH // 2}" y="{y + BOX_HEIGHT // 2 + 5}" '
        'text-anchor="middle" font-size="14" stroke="none" fill="currentColor">'
        f"{escape(name)}</text>"
    )


def _arc(start: int, end: int, left: int) -> str:
    down = end > start
    side = 1 if down else -1
    x = left + (BOX_WIDTH if down else 0)
    bow = x + side * LANE * abs(end - start) * 1.3
    # arrows leave a box at its lower half and arrive at its upper half, or mirrored
    y1 = start * ROW + ROW // 2 + 6 * side
    y2 = end * ROW + ROW // 2 - 6 * side
    tip = f"M {x + side * 7} {y2 - 4} L {x} {y2} L {x + side * 7} {y2 + 4}"
    return f'<path d="M {x} {y1} C {bow} {y1}, {bow} {y2}, {x} {y2} {tip}"/>'


class States(SphinxDirective):
    """Draw the state machine named by the argument."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """Return the diagram and the table."""
        machine = MACHINES[self.arguments[0]]
        return [nodes.raw("", diagram(machine), format="html"), _table(machine)]


def _table(machine: Machine) -> nodes.table:
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in range(3)), cols=3)
    group += nodes.thead("", _row("From", "What happens", "To"))
    final = [(str(state), "nothing: it is over", "") for state in machine]
    shown = moves(machine)
    shown += [row for row in final if row[0] not in {move[0] for move in shown}]
    group += nodes.tbody("", *(_row(*row) for row in shown))
    return nodes.table("", group)


def _row(*cells: str) -> nodes.row:
    return nodes.row(
        "", *(nodes.entry("", nodes.paragraph("", "", nodes.Text(c))) for c in cells)
    )


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("states", States)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
