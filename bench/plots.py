"""The plots of a report, by matplotlib, which is imported here alone and may be missing."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.figures import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HINT = "No plots: matplotlib is not installed. `pip install 'relay-outbox[bench]'` brings it."
TITLES = {
    "drain": ("Draining what waits", "events/s", ""),
    "latency": ("Commit to stored", "ms", "% of events"),
    "steady": ("Waiting while producers run as fast as they go", "s", "events"),
    "long-transaction": ("Delivery, with and without an old snapshot", "s", "events/s"),
}


def draw(curves: Sequence[Curve], folder: Path) -> tuple[list[str], str]:
    """Draw a PNG for each plot; their names, and why there are none, or ""."""
    by_plot: dict[str, list[Curve]] = defaultdict(list)
    for curve in curves:
        by_plot[curve.plot].append(curve)
    if not by_plot:
        return [], ""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return [], HINT
    names = []
    for plot, found in by_plot.items():
        figure = Figure(figsize=(9, 5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        title, x, y = TITLES[plot]
        axes.set(title=title, xlabel=x, ylabel=y)
        (bars if plot == "drain" else lines)(axes, found)
        if plot == "latency":
            axes.set_xscale("log")
        figure.savefig(folder / f"{plot}.png", dpi=110)
        names.append(f"{plot}.png")
    return names, ""


def bars(axes: "Axes", curves: Sequence[Curve]) -> None:
    """Draw one bar a curve, the first on top."""
    names, values = [c.name for c in curves], [c.points[0][1] for c in curves]
    shown = axes.barh(names, values)
    axes.bar_label(shown, [f"{value:,.0f}" for value in values], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)


def lines(axes: "Axes", curves: Sequence[Curve]) -> None:
    """Draw one line a curve."""
    for curve in curves:
        xs, ys = zip(*curve.points, strict=True) if curve.points else ((), ())
        axes.plot(xs, ys, label=curve.name)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
