"""Charts as inline SVG: numbers in, markup out, the same bytes for the same numbers.

Matplotlib draws with stand-in colours that become CSS (`currentColor`, `var(--before)`, …), so one
drawing reads in light, in dark and on paper. Text stays text, in the page's own font.
"""

import io
import math
import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.runs import Mark

INK, BEFORE, AFTER, TRIVIAL, FAINT = "#010101", "#020202", "#030303", "#040404", "#050505"
CSS = {
    INK: "currentColor",
    BEFORE: "var(--before)",
    AFTER: "var(--after)",
    TRIVIAL: "var(--trivial)",
    FAINT: "var(--rule)",
}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "medsjax",
    "text.parse_math": False,  # a `$` in a name is a dollar
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
}
MOST_POINTS = 400  # a curve finer than the screen only makes the file heavy


class Bar(NamedTuple):
    """One row of the score chart."""

    label: str
    group: str
    before: Mark
    after: Mark
    trivial: float | None


def scores(bars: Sequence[Bar], names: tuple[str, str], title: str) -> Markup:
    """A row a task: the score before and after with its interval, and a tick at the trivial score.

    `names` are the legend's words for before and after; a kind of mark that no row has is left out.
    """
    rows = np.arange(len(bars))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.4, 0.95 + 0.34 * len(bars)), layout="constrained")
        axes = figure.add_subplot()
        for kind, name, shift, colour, shape, face in (
            ("before", names[0], -0.14, BEFORE, "o", "none"),
            ("after", names[1], 0.14, AFTER, "D", AFTER),
        ):
            _marks(axes, rows + shift, [getattr(b, kind) for b in bars], name, colour, shape, face)
        _trivial(axes, rows, bars)
        axes.set(xlim=(-1.5, 101.5), ylim=(len(bars) - 0.4, -0.6), xlabel="score, percent")
        axes.set_xticks(range(0, 101, 10))
        axes.set_yticks(rows, [b.label for b in bars])
        axes.tick_params(length=0)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        for row, bar in enumerate(bars):
            if row == 0 or bar.group != bars[row - 1].group:
                axes.text(103, row, bar.group, va="center", style="italic")
                if row:
                    axes.axhline(row - 0.5, color=FAINT, linewidth=0.6)
        figure.legend(loc="outside upper left", ncols=3, frameon=False, handletextpad=0.4)
        return _svg(figure, "scores", title)


def _marks(axes: Axes, y, marks: list[Mark], name, colour, shape, face) -> None:
    known = [(at, m) for at, m in zip(y, marks, strict=True) if m.value is not None]
    for at, mark in known:
        if mark.low is not None and mark.high is not None:
            axes.plot([mark.low, mark.high], [at, at], color=colour, linewidth=1.6)
    if known:
        axes.plot(
            [m.value for _, m in known],
            [at for at, _ in known],
            shape,
            color=colour,
            markerfacecolor=face,
            markersize=5.5,
            markeredgewidth=1.5,
            label=name,
            clip_on=False,
        )


def _trivial(axes: Axes, rows, bars: Sequence[Bar]) -> None:
    known = [(row, b.trivial) for row, b in zip(rows, bars, strict=True) if b.trivial is not None]
    if known:
        y, x = zip(*known, strict=True)
        label = "trivial: best constant answer"
        axes.plot(
            x, y, "|", color=TRIVIAL, markersize=17, markeredgewidth=1.8, label=label, clip_on=False
        )


def curve(
    name: str,
    title: str,
    y_label: str,
    train: Sequence[tuple[float, float]],
    heldout: Sequence[tuple[float, float]] = (),
    from_zero: bool = False,
) -> Markup:
    """A quantity by training step; `heldout` are the sparser points drawn over it.

    Not-finite values are gaps. `name` makes the SVG's ids unique in the page.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.0, 2.9), layout="constrained")
        axes = figure.add_subplot()
        if train:
            axes.plot(*thin(train), color=AFTER, linewidth=1.3, label="training")
        if heldout:
            axes.plot(
                *zip(*heldout, strict=True),
                "o--",
                color=BEFORE,
                markerfacecolor="none",
                markersize=5,
                linewidth=1.3,
                label="held out",
            )
            figure.legend(loc="outside upper left", ncols=2, frameon=False)
        axes.set(xlabel="step", ylabel=y_label)
        if from_zero:
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
        axes.grid(axis="y")
        axes.tick_params(length=0)
        return _svg(figure, name, title)


def radar(
    axes_names: Sequence[str], series: dict[str, Sequence[float | None]], title: str
) -> Markup:
    """A polygon a series over as many axes, 0 to 100, ours last; a value that is None opens it."""
    angles = 2 * np.pi * np.arange(len(axes_names)) / len(axes_names)
    looks = ((BEFORE, "--"), (TRIVIAL, ":"), (AFTER, "-"))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 5.2), layout="constrained")
        axes = figure.add_subplot(projection="polar")
        for (name, values), (colour, line) in zip(
            series.items(), looks[-len(series) :], strict=True
        ):
            y = [np.nan if value is None else value for value in (*values, values[0])]
            x = [*angles, angles[0]]
            axes.plot(x, y, line, color=colour, linewidth=1.6, marker="o", ms=4, label=name)
        axes.set_ylim(0, 100)
        axes.set_xticks(angles, axes_names)
        for angle, label in zip(angles, axes.get_xticklabels(), strict=True):
            side = np.sin(angle)  # clockwise from the top
            label.set_horizontalalignment(
                "center" if abs(side) < 0.1 else "left" if side > 0 else "right"
            )
        axes.set_yticks([20, 40, 60, 80, 100], ["20", "40", "60", "80", ""])
        axes.set_rlabel_position(180 / len(axes_names))
        axes.set_theta_zero_location("N")
        axes.set_theta_direction(-1)
        axes.grid(color=FAINT)
        axes.spines["polar"].set_color(FAINT)
        axes.tick_params(length=0)
        axes.tick_params(axis="x", pad=6)
        figure.legend(loc="outside upper left", ncols=3, frameon=False)
        return _svg(figure, "radar", title)


def thin(points: Sequence[tuple[float, float]]) -> np.ndarray:
    """At most MOST_POINTS points, each the mean of its neighbours: [2, n]. One NaN makes a gap."""
    group = math.ceil(len(points) / MOST_POINTS)
    return np.transpose([np.mean(points[i : i + group], 0) for i in range(0, len(points), group)])


def _svg(figure: Figure, name: str, title: str) -> Markup:
    file = io.StringIO()
    with warnings.catch_warnings():  # the browser draws the glyphs, not matplotlib's font
        warnings.filterwarnings("ignore", message="Glyph")
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)[0]
    for stand_in, css in CSS.items():
        body = body.replace(stand_in, css)
    body = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", body)
    said = escape(title)
    opening = f'<svg class="chart-{name}" role="img" aria-label="{said}" {box}>'
    return Markup(f"{opening}<title>{said}</title>{body}")
