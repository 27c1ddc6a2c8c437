"""print_check: a sound figure has no complaints; a figure that breaks one rule has that one."""

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

from geolib.companion.figures import plots, style
from geolib.companion.figures.print_check import complaints

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("style")]


def of(figure):
    figure.draw_without_rendering()
    return complaints(figure)


@pytest.fixture
def axes():
    """A panel of a sound figure."""
    _, axes = plots.new_figure(style.COLUMN, 2.4)
    axes.plot([0, 1, 3], [2, 0, 1], marker="o")
    axes.set(xlabel="x [mm]", ylabel="y [mm]", title="a title", xlim=(0, 4), ylim=(0, 3))
    return axes


def rich():
    """A sound figure with all that figures here have: maps, bars, classes, a legend beside the data, images."""
    figure, axes = plots.new_figure(style.PAGE, 4.5, rows=2, columns=2)
    rng = np.random.default_rng(0)
    picture = axes[0, 0].imshow(rng.random((5, 5)), cmap=style.FIELD)
    plots.color_bar(picture, axes[0, 0], "height [m]")
    lines = LineCollection([[(0, 0), (1, 1)], [(0, 1), (1, 0)]], array=np.array([0.0, 1.0]), cmap=style.LINES)
    axes[0, 0].add_collection(lines)
    for color, shift in zip(style.PALETTE, range(8), strict=True):
        axes[0, 1].scatter(rng.random(5) + shift, rng.random(5), color=color, alpha=0.5, s=3)
    axes[0, 1].annotate("here", (1, 0.5), (3, 1.2), arrowprops={"arrowstyle": "->"})
    axes[1, 0].bar(range(4), range(4), label="bars", edgecolor="white")
    axes[1, 0].errorbar(range(4), range(4), 0.2, color="0.3", fmt="none")
    axes[1, 0].legend(loc="upper left", bbox_to_anchor=(0, 1.3))
    axes[1, 1].imshow(rng.random((6, 6)), cmap="gray", vmin=0, vmax=1)
    axes[1, 1].set(xticks=[], yticks=[])
    return figure


def test_sound_figures(axes):
    assert of(axes.figure) == []
    assert of(rich()) == []


# --- text


@pytest.mark.parametrize("place", [(-0.02, 0.5), (0.95, 0.5), (0.5, -0.03), (0.5, 0.99)])
def test_text_over_the_edge_is_clipped(axes, place):
    axes.figure.text(*place, "lost in print")
    assert '"lost in print" is clipped by the figure\'s edge' in of(axes.figure)


def test_text_at_the_edge_is_not(axes):
    axes.figure.text(0, 0, "safe", va="bottom")
    assert of(axes.figure) == []


def test_text_may_be_clipped_by_its_panel(axes):
    axes.text(3.9, 1.5, "half", clip_on=True)
    assert of(axes.figure) == ['"half" is clipped by its panel']


def test_texts_overlap(axes):
    axes.text(1, 1, "one\nline")
    axes.text(1.1, 1.1, "other")
    assert of(axes.figure) == ['"one line" and "other" overlap']


def test_half_a_point_is_no_overlap(axes):
    axes.figure.draw_without_rendering()
    axes.figure.set_layout_engine("none")
    first = axes.figure.text(0.4, 0.5, "one")
    edge = first.get_window_extent().x1 / axes.figure.bbox.width
    point = 1 / 72 / style.COLUMN
    second = axes.figure.text(edge - 0.3 * point, 0.5, "two")
    assert of(axes.figure) == []
    second.set_x(edge - 0.9 * point)
    assert of(axes.figure) == ['"one" and "two" overlap']


def test_tick_labels_overlap(axes):
    axes.set_xticks([1, 1.05], ["a label", "another"])
    assert of(axes.figure) == ['"a label" and "another" overlap']


def test_what_is_not_drawn_overlaps_nothing(axes):
    axes.text(1, 1, "one")
    hidden = axes.text(1, 1, "two")
    hidden.set_visible(False)
    axes.text(1, 1, "three", alpha=0)
    axes.text(1, 1, "  ")
    axes.set_xticks([1, 9, 9.01], ["in", "out", "beyond"])  # autoscaling is not asked
    axes.set_xlim(0, 4)
    assert of(axes.figure) == []
    panel = axes.inset_axes([0.2, 0.4, 0.2, 0.2])
    panel.text(0.5, 0.5, "four")
    panel.set_visible(False)
    assert of(axes.figure) == []
    panel.set_visible(True)
    panel.axis("off")
    assert of(axes.figure) == []


def test_small_text(axes):
    axes.text(1, 1, "small", fontsize=5.9)
    axes.text(2, 1, "just", fontsize=6)
    axes.tick_params(axis="x", labelsize=5)
    axes.set_xticks([1.0], ["tick"])
    assert sorted(of(axes.figure)) == ['"small" is set in 5.9 pt, under 6', '"tick" is set in 5 pt, under 6']


def test_the_width_is_that_of_a_column_or_a_page(axes):
    axes.figure.set_figwidth(5.0)
    assert of(axes.figure) == ["the figure is 5 in wide, neither a column (3.3) nor a page (6.8)"]


# --- colours


def foreign(figure):
    return [line.split(" has the colour ") for line in of(figure)]


@pytest.mark.parametrize(
    ("kind", "draw"),
    [
        ("Line2D", lambda axes, color: axes.plot([0, 1], [1, 1], color=color)),
        ("Line2D", lambda axes, color: axes.plot([0, 1], [1, 1], "o", markerfacecolor=color, markeredgecolor="0.2")),
        ("Line2D", lambda axes, color: axes.plot([0, 1], [1, 1], "o", markerfacecolor="C0", markeredgecolor=color)),
        ("Rectangle", lambda axes, color: axes.bar([1], [1], color=color)),
        ("Rectangle", lambda axes, color: axes.bar([1], [1], color="C0", edgecolor=color)),
        ("Text", lambda axes, color: axes.text(1, 1, "word", color=color)),
        ("FancyBboxPatch", lambda axes, color: axes.text(1, 1, "word", bbox={"facecolor": color})),
        ("PathCollection", lambda axes, color: axes.scatter([1, 2], [1, 1], color=["C0", color])),
        ("PathCollection", lambda axes, color: axes.scatter([1], [1], color="C0", edgecolor=color)),
        ("LineCollection", lambda axes, color: plots.draw_curves(axes, np.ones((1, 2, 2)), colors=[color])),
        ("FillBetweenPolyCollection", lambda axes, color: axes.fill_between([0, 1], [1, 1], color=color)),
    ],
)
def test_colours_outside_the_palette(axes, kind, draw):
    draw(axes, "#123f9a")
    assert foreign(axes.figure) == [[f"a {kind}", "#123f9a, which is not in the palette"]]


@pytest.mark.parametrize("color", [*style.PALETTE, "C1", "0.3", "black", "white", "none", (0.9, 0.1, 0.1, 0.0)])
def test_palette_greys_and_what_is_not_seen(axes, color):
    axes.plot([0, 1], [1, 1], color=color, alpha=None)
    axes.text(2, 2, "word", color=color)
    axes.bar([1], [1], color=color)
    axes.scatter([1], [1], color=color)
    assert of(axes.figure) == []


def test_maps_of_the_style_only(axes):
    for cmap in (*style.COLOR_MAPS, "gray", "viridis_r"):
        axes.imshow(np.eye(3), cmap=cmap, extent=(0, 1, 0, 1))
        axes.scatter([0, 1], [1, 1], c=[0.0, 1.0], cmap=cmap)
    axes.set_aspect("auto")
    assert of(axes.figure) == []
    axes.imshow(np.eye(3), cmap="jet", extent=(0, 1, 0, 1))
    axes.pcolormesh(np.eye(3), cmap="coolwarm")
    axes.set_aspect("auto")
    found = of(axes.figure)
    assert any(line.startswith("a AxesImage has") for line in found)
    assert any(line.startswith("a QuadMesh has") for line in found)


def test_a_photograph_has_its_own_colours(axes):
    axes.imshow(np.random.default_rng(0).random((3, 3, 3)), extent=(0, 1, 0, 1))
    assert of(axes.figure) == []


# --- legends

OVER = 'the legend that begins with "it" lies over data'


@pytest.mark.parametrize(
    "draw",
    [
        lambda axes: axes.plot([0, 4], [2, 2], label="it"),  # no vertex lies in the legend
        lambda axes: axes.plot([2], [2], "o", label="it"),
        lambda axes: axes.scatter([2], [2], label="it"),
        lambda axes: axes.add_patch(Rectangle((1, 1), 2, 2, label="it")),
        lambda axes: axes.fill_between([0, 4], [3, 3], label="it"),
        lambda axes: plots.draw_curves(axes, np.array([[[0, 2], [4, 2]]]), label="it"),
    ],
)
def test_a_legend_over_data(axes, draw):
    axes.lines[0].remove()
    draw(axes)
    axes.set(xlim=(0, 4), ylim=(0, 4))
    axes.legend(loc="center")
    assert of(axes.figure) == [OVER]
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.2))
    assert of(axes.figure) == []


def test_a_legend_over_a_map_or_another_panels_data():
    figure, axes = plots.new_figure(style.PAGE, 2.4, columns=2)
    axes[0].imshow(np.eye(3), cmap="gray")
    axes[1].plot([0, 1], [0, 1], label="it")
    axes[1].legend(loc="lower right")
    assert of(figure) == []
    axes[1].legend(loc="upper left")
    assert of(figure) == []
    figure.legend(loc="center left", bbox_to_anchor=(0.15, 0.5))
    assert of(figure) == [OVER]


def test_a_legend_in_an_empty_corner(axes):
    axes.lines[0].set_label("it")
    axes.plot([0, 100], [100, 0], label="far")  # beyond the panel, nothing is drawn
    axes.set(xlim=(0, 4), ylim=(0, 3))
    axes.legend(loc="upper right")
    assert of(axes.figure) == []
