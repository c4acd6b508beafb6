"""Draws the step graph of an environment: left to right by level, with calls and gold answers."""

import json
import textwrap
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

from astra_api.environment import Environment, Step
from astra_api.errors import BadInput
from astra_api.graph import levels, terminal_steps

_WIDTH, _GAP_X, _GAP_Y = 3.1, 0.9, 0.35  # inches: a box, and the space between boxes
_LINE, _PAD, _MARGIN, _MIN_WIDTH = 0.185, 0.14, 0.35, 7.0
_WRAP, _MAX_LINES, _DPI = 38, 6, 150
_INK, _QUIET, _EDGE = "#1b2733", "#5b6b7a", "#8aa0b4"
_FILL = {"tool": ("#eef4fb", "#4a7fb5"), "reasoning": ("#f6f3ea", "#b39b57"), "answer": ("#e9f6ee", "#3d9462")}


@dataclass
class _Box:
    """A step's box, or (without lines) a bend of an edge that passes its column. Inches from the lower left."""

    id: str
    parents: list[str]
    lines: list[tuple[str, str]] = field(default_factory=list)  # (text, text | call | gold)
    kind: str = ""
    x: float = 0.0
    y: float = 0.0  # of its middle

    @property
    def height(self) -> float:
        return len(self.lines) * _LINE + 2 * _PAD if self.lines else 0.12


def draw_steps(environment: Environment, file: Path) -> None:
    """Writes a picture of the step graph; the suffix says its format. Raises BadInput for a graph without levels."""
    try:
        by_level = levels(environment.spec.steps)
    except ValueError as error:
        raise BadInput(f"{environment.name}: spec.steps cannot be drawn: {error}") from None
    columns = _ordered(_with_bends([[_box(step, environment) for step in level] for level in by_level]))
    tallest = max(_height(column) for column in columns)
    for index, column in enumerate(columns):
        y = tallest - (tallest - _height(column)) / 2
        for box in column:
            box.x, box.y = index * (_WIDTH + _GAP_X), y - box.height / 2
            y -= box.height + _GAP_Y
    width = max(_MIN_WIDTH, len(columns) * (_WIDTH + _GAP_X) - _GAP_X + 2 * _MARGIN)
    title = _wrapped(environment.spec.question, int((width - 2 * _MARGIN) * 8.8), 5)
    head = len(title) * 0.25 + 0.5
    figure = Figure(figsize=(width, tallest + 2 * _MARGIN + head), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(-_MARGIN, width - _MARGIN)
    axes.set_ylim(-_MARGIN, tallest + _MARGIN + head)
    boxes = {box.id: box for column in columns for box in column}
    for box in boxes.values():
        for parent in box.parents:
            _draw_edge(axes, boxes[parent], box)
        if box.lines:
            _draw_box(axes, box)
    top = tallest + _MARGIN + head - 0.3
    for index, line in enumerate(title):
        axes.text(
            0, top - index * 0.25, line, fontsize=12.5, fontweight="bold", color=_INK, va="center", parse_math=False
        )
    caption = f"{environment.name}  ·  {environment.spec.domain}  ·  {environment.spec.scenario}"
    axes.text(0, top - len(title) * 0.25, caption, fontsize=9, color=_QUIET, va="center", parse_math=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a script that no installed font has shows as boxes
        try:
            figure.savefig(file)
        except (OSError, ValueError) as error:
            raise BadInput(f"--png {file}: cannot be written: {error}") from None


def _box(step: Step, environment: Environment) -> _Box:
    lines = [(line, "text") for line in _wrapped(f"{step.id}  {step.question}", _WRAP, _MAX_LINES)]
    if step.call is not None:
        given = ", ".join(
            f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in step.call.arguments.items()
        )
        lines += [(line, "call") for line in _wrapped(f"{step.call.tool}({given})", _WRAP - 2, 4)]
    answer = step.answer if isinstance(step.answer, str) else json.dumps(step.answer, ensure_ascii=False)
    lines += [(line, "gold") for line in _wrapped(f"= {answer}", _WRAP - 3, 3)]
    gives_answer = step in terminal_steps(environment.spec.steps) and step.matches(environment.spec.answer)
    kind = "answer" if gives_answer else "tool" if step.call is not None else "reasoning"
    return _Box(step.id, list(step.depends_on), lines, kind)


def _draw_edge(axes: Axes, start: _Box, end: _Box) -> None:
    """An S from the right side of one box to the left side of the next; the arrow only where it ends at a step."""
    left, right = (start.x + _WIDTH, start.y), (end.x, end.y)
    middle = (left[0] + right[0]) / 2
    points = [left, (middle, left[1]), (middle, right[1]), right]
    codes = [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
    if not end.lines:
        points.append((end.x + _WIDTH, end.y))
        codes.append(Curve.LINETO)
        axes.add_patch(PathPatch(Curve(points, codes), facecolor="none", edgecolor=_EDGE, linewidth=1.2, zorder=1))
        return
    arrow = FancyArrowPatch(
        path=Curve(points, codes), arrowstyle="-|>", mutation_scale=12, linewidth=1.2, color=_EDGE, zorder=1
    )
    axes.add_patch(arrow)


def _draw_box(axes: Axes, box: _Box) -> None:
    fill, edge = _FILL[box.kind]
    style = "round,pad=0,rounding_size=0.09"
    corner = (box.x, box.y - box.height / 2)
    axes.add_patch(
        FancyBboxPatch(
            corner, _WIDTH, box.height, boxstyle=style, facecolor=fill, edgecolor=edge, linewidth=1.3, zorder=2
        )
    )
    top = box.y + box.height / 2 - _PAD - _LINE / 2
    for index, (line, kind) in enumerate(box.lines):
        axes.text(
            box.x + 0.13,
            top - index * _LINE,
            line,
            fontsize=8.3 if kind == "call" else 9,
            fontfamily="monospace" if kind == "call" else "sans-serif",
            fontweight="bold" if kind == "gold" else "normal",
            color={"text": _INK, "call": _QUIET, "gold": edge}[kind],
            va="center",
            zorder=3,
            parse_math=False,
        )


def _height(column: list[_Box]) -> float:
    return sum(box.height for box in column) + _GAP_Y * (len(column) - 1)


def _with_bends(columns: list[list[_Box]]) -> list[list[_Box]]:
    """An edge over several columns gets a bend in each column between: it passes the boxes there, not behind them."""
    place = {box.id: index for index, column in enumerate(columns) for box in column}
    for index, column in enumerate(columns):
        for box in [box for box in column if box.lines]:
            for position, parent in enumerate(box.parents):
                previous = parent
                for between in range(place[parent] + 1, index):
                    bend = _Box(f"{parent} > {box.id} @ {between}", [previous])
                    columns[between].append(bend)
                    previous = bend.id
                box.parents[position] = previous
    return columns


def _ordered(columns: list[list[_Box]]) -> list[list[_Box]]:
    """Each column sorted by the mean place of its parents, so that few edges cross."""
    place: dict[str, float] = {}
    for column in columns:
        column.sort(key=lambda box: _mean([place[parent] for parent in box.parents]))
        for index, box in enumerate(column):
            place[box.id] = (index + 0.5) / len(column)
    return columns


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _wrapped(text: str, width: int, most: int) -> list[str]:
    return textwrap.wrap(text, width, max_lines=most, placeholder=" …") or [""]
