"""How the plots of reports are drawn and kept: one PNG each, nothing of what a run does not have.

Imports matplotlib, which the other modules of this package do without.
"""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
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


def png(plot: Plot[R], record: R, style: Mapping[str, Any]) -> bytes | None:
    """The picture of a plot, the same bytes for the same run; None when there is nothing to draw."""
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()  # whatever the user's own style
        mpl.rcParams.update(_STYLE | dict(style))
        warnings.filterwarnings("ignore", message="Glyph")  # a script that no installed font has shows as boxes
        chart = Figure(figsize=(6.4, 3.5), layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1))
        FigureCanvasAgg(chart)
        axes = chart.add_subplot()
        if not plot.draw(axes, record):
            return None
        axes.set_title(plot.title)
        picture = io.BytesIO()
        chart.savefig(picture, format="png", metadata={"Software": None})
        return picture.getvalue()


def draw(
    plots: Sequence[Plot[R]], record: R, folder: Path, style: Mapping[str, Any]
) -> list[tuple[str, list[Plot[R]]]]:
    """Draws what there is to draw into `folder`, section by section; removes what an earlier report drew besides."""
    folder.mkdir(exist_ok=True)
    drawn = []
    for plot in plots:
        picture, file = png(plot, record, style), folder / f"{plot.name}.png"
        if picture is None:
            file.unlink(missing_ok=True)
        else:
            replace(file, picture)
            drawn.append(plot)
    return [(section, list(found)) for section, found in groupby(drawn, key=lambda plot: plot.section)]
