"""How the plots of reports are drawn: one PNG each, nothing of what a run does not have.

Imports matplotlib, which the other modules of this package do without.
"""

import base64
import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Generic, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from astra_api.files import replace

QUIET, PALE = "#5f6368", "#c4c7cc"
_STYLE: Any = {
    "figure.dpi": 140,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": "#202124",
    "axes.labelcolor": QUIET,
    "axes.edgecolor": PALE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}

R = TypeVar("R")


@dataclass(frozen=True)
class Plot(Generic[R]):
    """A plot of a report. `draw` returns False when the run has nothing of it to show."""

    name: str
    section: str
    title: str
    says: str
    draw: Callable[[Axes, R], bool]


@dataclass(frozen=True)
class Drawn:
    """A plot on a page: its title, what it says, and the picture as a URI that needs no other file."""

    section: str
    title: str
    says: str
    uri: str


@contextmanager
def styled(style: Mapping[str, Any]) -> Iterator[None]:
    """How all plots look, whatever the user's own style is."""
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE | dict(style))
        warnings.filterwarnings("ignore", message="Glyph")  # a script that no installed font has shows as boxes
        yield


def chart(plot: Plot[R], record: R) -> Figure | None:
    """The figure of a plot, its legend below what it explains; None when there is nothing to draw."""
    figure = Figure(figsize=(6.4, 3.5), layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if not plot.draw(axes, record):
        return None
    axes.set_title(plot.title)
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), handlelength=1.6)
    return figure


def png(plot: Plot[R], record: R, style: Mapping[str, Any]) -> bytes | None:
    """The picture of a plot, the same bytes for the same run; None when there is nothing to draw."""
    with styled(style):
        figure = chart(plot, record)
        if figure is None:
            return None
        picture = io.BytesIO()
        figure.savefig(picture, format="png", metadata={"Software": None})
        return picture.getvalue()


def draw(plots: Sequence[Plot[R]], record: R, folder: Path, style: Mapping[str, Any]) -> list[tuple[str, list[Drawn]]]:
    """Draws what there is to draw, section by section, and into files of `folder`; removes what an earlier report drew
    besides."""
    folder.mkdir(exist_ok=True)
    drawn = []
    for plot in plots:
        picture, file = png(plot, record, style), folder / f"{plot.name}.png"
        if picture is None:
            file.unlink(missing_ok=True)
        else:
            replace(file, picture)
            uri = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
            drawn.append(Drawn(plot.section, plot.title, plot.says, uri))
    return [(section, list(found)) for section, found in groupby(drawn, key=lambda plot: plot.section)]
