"""plots and grid: maps stand where their values are, bars are true of them, labels can be read."""

import math

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from geolib.companion.figures import plots, style
from geolib.companion.figures.print_check import complaints
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies import summaries

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("style")]


@pytest.fixture
def latents(generator):
    return torch.randn(400, 2, generator=generator)


@pytest.fixture
def grid(latents):
    return LatentGrid.around(latents, resolution=12)


# --- style


def test_text_is_set_in_seven_to_nine_points():
    sizes = {name: mpl.rcParams[name] for name in mpl.rcParams if name.endswith(("labelsize", "titlesize", "fontsize"))}
    numbers = {name: size for name, size in sizes.items() if isinstance(size, float)}
    assert {"axes.labelsize", "xtick.labelsize", "legend.fontsize"} <= set(numbers)
    assert mpl.rcParams["font.size"] == 8
    used = {name: size for name, size in numbers.items() if not name.startswith("figure.")}
    assert all(7 <= size <= 9 for size in used.values()), used


def test_the_palette_can_be_told_apart_in_grey_and_is_the_cycle():
    cycle = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
    assert [to_rgb(color) for color in cycle] == [to_rgb(color) for color in style.PALETTE]
    assert len(set(style.PALETTE)) == len(style.MARKERS) == 8


@pytest.mark.parametrize("cmap", style.COLOR_MAPS, ids=lambda cmap: getattr(cmap, "name", cmap))
def test_colour_maps_are_monotone_in_grey(cmap):
    rgb = mpl.colormaps.get_cmap(cmap)(np.linspace(0, 1, 64))[:, :3]
    luminance = rgb @ [0.2126, 0.7152, 0.0722]
    steps = np.diff(luminance)
    assert (steps > 0).all() or (steps < 0).all()


# --- the grid


def test_a_grid_covers_the_data_with_a_margin_and_square_cells():
    latents = torch.tensor([[0.0, -1.0], [4.0, 1.0]])
    grid = LatentGrid.around(latents, resolution=5, margin=0.25)
    torch.testing.assert_close(grid.x, torch.tensor([-1.0, 0.5, 2.0, 3.5, 5.0]))
    torch.testing.assert_close(grid.y, torch.tensor([-3.0, -1.5, 0.0, 1.5, 3.0]))
    assert grid.extent == pytest.approx((-1.75, 5.75, -3.75, 3.75))
    assert grid.points.shape == (5, 5, 2)
    assert grid.points[1, 4].tolist() == [5.0, -1.5]
    assert LatentGrid.around(latents.double(), resolution=3).points.dtype == torch.float64


# --- maps and bars


def test_a_map_stands_where_its_values_are(grid):
    x, y = grid.points.unbind(-1)
    figure, axes = plots.new_figure(style.COLUMN, 3)
    image = plots.heat_map(axes, grid, x + 10 * y)
    figure.canvas.draw()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$z_1$", "$z_2$")
    assert axes.get_aspect() == 1
    shown = image.get_array()
    left, right, bottom, top = image.get_extent()
    columns, rows = (right - left) / 12, (top - bottom) / 12
    for i, j in ((0, 0), (11, 0), (3, 7)):
        at = (left + (i + 0.5) * columns, bottom + (j + 0.5) * rows)  # the middle of the cell, from the lower left
        assert at == pytest.approx((float(grid.x[i]), float(grid.y[j])), abs=1e-5)
        assert shown[j, i] == pytest.approx(at[0] + 10 * at[1], abs=1e-4)
    assert axes.get_xlim() == pytest.approx((left, right))
    assert axes.get_ylim() == pytest.approx((bottom, top))


def test_a_map_leaves_holes_where_there_is_no_number(grid):
    values = grid.points[..., 0].clone()
    values[0, 0], values[1, 1] = math.inf, math.nan
    _, axes = plots.new_figure(style.COLUMN, 3)
    image = plots.heat_map(axes, grid, values)
    assert np.ma.getmaskarray(image.get_array()).sum() == 2
    low, high = image.get_clim()
    assert math.isfinite(low)
    assert low < high < math.inf


def test_limits_hold_the_share_that_is_asked_for():
    values = torch.arange(1001.0)
    assert plots.limits_at(values) == pytest.approx({"vmin": 10, "vmax": 990})
    assert plots.limits_at(values, share=0.5) == pytest.approx({"vmin": 250, "vmax": 750})
    assert plots.limits_at(values, share=1) == pytest.approx({"vmin": 0, "vmax": 1000})
    holed = torch.cat([values, torch.tensor([math.inf, -math.inf, math.nan])]).reshape(4, -1)
    assert plots.limits_at(holed) == pytest.approx({"vmin": 10, "vmax": 990})


@pytest.mark.parametrize(
    ("low", "high", "extend"), [(0, 10, "neither"), (1, 10, "min"), (0, 9, "max"), (1, 9, "both"), (-1, 11, "neither")]
)
@pytest.mark.parametrize("location", ["right", "top", "bottom"])
def test_a_bar_has_arrows_where_values_go_on(grid, low, high, extend, location):
    values = torch.linspace(0, 10, 144).reshape(12, 12)
    values[3, 3] = math.nan
    figure, axes = plots.new_figure(style.COLUMN, 4)
    bar = plots.color_bar(plots.heat_map(axes, grid, values, vmin=low, vmax=high), axes, "a label", location=location)
    assert bar.extend == extend
    assert (bar.vmin, bar.vmax) == (low, high)
    assert "a label" in (bar.ax.get_xlabel(), bar.ax.get_ylabel())
    figure.draw_without_rendering()
    assert complaints(figure) == []


def test_panels_share_a_bar(grid):
    figure, axes = plots.new_figure(style.PAGE, 3, columns=2)
    pictures = [plots.heat_map(panel, grid, grid.points[..., 0], vmin=-1, vmax=1) for panel in axes]
    plots.color_bar(pictures[0], list(axes), "a label")
    figure.draw_without_rendering()
    boxes = [panel.get_window_extent() for panel in figure.axes]
    assert len(boxes) == 3
    assert boxes[2].x0 > boxes[1].x1 > boxes[0].x1
    assert boxes[0].height == pytest.approx(boxes[1].height)


# --- classes


def test_classes_have_their_own_colours_and_labels_at_their_medians(grid, latents):
    spread = latents / 5 + torch.tensor([[-1.0, 1.0], [1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]]).repeat(100, 1)
    labels = torch.tensor([2, 4, 5, 7]).repeat(100)
    _, axes = plots.new_figure(style.COLUMN, 3)
    plots.heat_map(axes, grid, grid.points[..., 0])
    plots.scatter_classes(axes, spread, labels)
    assert axes.get_legend() is None
    assert [len(scatter.get_offsets()) for scatter in axes.collections] == [100] * 4
    colors = [to_rgb(scatter.get_facecolor()[0]) for scatter in axes.collections]
    assert colors == [to_rgb(color) for color in style.PALETTE[:4]]
    assert [text.get_text() for text in axes.texts] == ["2", "4", "5", "7"]
    for text in axes.texts:
        # numpy's median of an even number is the mean of the middle two
        median = np.median(spread[labels == int(text.get_text())].numpy(), axis=0)
        assert text.get_position() == pytest.approx(tuple(median), abs=1e-6)


def test_more_classes_than_colours_differ_by_marker(latents):
    _, axes = plots.new_figure(style.PAGE, 6)
    plots.scatter_classes(axes, latents, torch.arange(400) % 10)
    looks = {
        (to_rgb(scatter.get_facecolor()[0]), scatter.get_paths()[0].vertices.tobytes()) for scatter in axes.collections
    }
    assert len(axes.collections) == len(axes.texts) == len(looks) == 10


@pytest.mark.parametrize("gap", [0.0, 1e-3, 0.1])
def test_labels_of_classes_at_one_place_are_moved_apart(grid, gap):
    labels = torch.arange(40) % 4
    points = labels[:, None] * torch.tensor([gap, 0.0])
    figure, axes = plots.new_figure(style.COLUMN, 3)
    plots.heat_map(axes, grid, grid.points[..., 0])
    plots.label_classes(axes, points, labels)
    figure.draw_without_rendering()
    assert complaints(figure) == []
    extent = float(grid.x[-1] - grid.x[0])
    for text in axes.texts:
        assert np.hypot(*text.get_position()) < 0.3 * extent, "far from its class"


# --- lines and images


def test_lines_are_drawn_with_the_largest_value_on_top():
    start, end = torch.zeros(3, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    _, axes = plots.new_figure(style.COLUMN, 3)
    lines = plots.draw_segments(axes, start, end, torch.tensor([3.0, 1.0, 2.0]), cmap=style.LINES, width=0.5)
    assert lines.get_array().tolist() == [1, 2, 3]
    assert [segment[1].tolist() for segment in lines.get_segments()] == [[0, 1], [1, 1], [1, 0]]
    assert lines.get_clim() == pytest.approx((0, np.quantile([1, 2, 3], 0.99)))
    assert lines.get_linewidth() == [0.5]


def test_lines_without_improvement_have_a_colour_range_too():
    _, axes = plots.new_figure(style.COLUMN, 3)
    lines = plots.draw_segments(axes, torch.zeros(2, 2), torch.ones(2, 2), torch.zeros(2), cmap=style.LINES)
    assert lines.get_clim() == (0, 1e-6)


def test_images_stand_in_rows(generator):
    images = torch.rand(6, 784, generator=generator)
    figure, axes = plots.new_figure(style.COLUMN, 2)
    plots.image_grid(axes, images, columns=3)
    (image,) = axes.images
    shown = np.asarray(image.get_array())
    assert shown.shape == (56, 84)
    for index in range(6):
        row, column = divmod(index, 3)
        tile = shown[28 * row : 28 * row + 28, 28 * column : 28 * column + 28]
        np.testing.assert_array_equal(tile, images[index].reshape(28, 28).numpy())
    assert figure.axes == [axes]
    assert image.get_clim() == (0, 1)
    plt.close(figure)


def test_points_along_a_line():
    points = plots.along(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 3.0]), 3)
    assert points.tolist() == [[0, 1], [0.5, 2], [1, 3]]


def test_the_summed_deviation_on_a_log_scale():
    points = torch.ones(2, 3, 2)
    torch.testing.assert_close(
        summaries.log_sigma(lambda z: torch.full((len(z), 4), 0.5), points), torch.full((2, 3), math.log(2.0))
    )
