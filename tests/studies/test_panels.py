"""Panels of the notebooks that straight lines are about: what is drawn is what was measured, and fit for print."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from project import bundled

import geolib
from geolib.companion.figures.linear_interpolation import condition_maps, tour, training, variance_rbf
from geolib.companion.models import generators
from geolib.companion.models.grid import LatentGrid
from geolib.companion.models.vae import VAE, VAEConfig

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("style")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return bundled(tmp_path_factory, (2, 4, 5, 7))


@pytest.fixture(scope="module")
def g(data):
    """A generator over real digits; its decoder is random, as nothing here asks what it shows."""
    vae = VAE(VAEConfig(widths=(24, 12)), generator=torch.Generator().manual_seed(1)).eval().requires_grad_(False)
    small = dataclasses.replace(data, train_images=data.train_images[:300], train_labels=data.train_labels[:300])
    return generators.generator(small, vae, n_centers=8)


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
    return LatentGrid.around(g.test_latents, resolution=12)


@pytest.fixture(scope="module")
def volume(g, grid):
    return geolib.magnification_factor(g.metric(grid.points)).log()


def test_the_tour_is_readable(g, grid, volume):
    start, end = generators.class_pair(g, 2, 7)
    curve = geolib.geodesic(g.metric, start, end)
    assert_readable(tour.tour(grid, volume, g, curve, n_images=4), 1)


def test_variance_maps_are_readable(g, grid):
    assert_readable(variance_rbf.variance_maps(grid, g.vae.std, g), 2)


def test_condition_maps_are_readable(g, grid):
    M = generators.in_double(g).metric(grid.points.double())
    v_min, v_max = geolib.extremal_directions(M)
    figure = condition_maps.condition_maps(grid, geolib.condition_number(M), v_min, v_max, g)
    assert_readable(figure, 2)
    assert [panel.get_title() for panel in figure.axes[:2]] == ["minimal eigenvectors", "maximal eigenvectors"]


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
    points = LatentGrid.around(g.test_latents, resolution=5, margin=0).points
    shown = np.asarray(images.images[0].get_array())
    top_left, bottom_right = shown[:28, :28], shown[-28:, -28:]
    np.testing.assert_allclose(top_left.ravel(), g.vae.mean(points[-1, 0]), atol=1e-6)
    np.testing.assert_allclose(bottom_right.ravel(), g.vae.mean(points[0, -1]), atol=1e-6)
