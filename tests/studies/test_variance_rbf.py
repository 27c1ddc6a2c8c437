"""Notebook 02's study and panel: standard deviations at the data and away from them."""

import dataclasses

import numpy as np
import pytest
import torch
from project import small_generator
from torch import nn

from geolib.companion.figures import plots, style
from geolib.companion.figures.linear_interpolation import variance_rbf as panels
from geolib.companion.figures.print_check import complaints
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies import summaries
from geolib.companion.studies.linear_interpolation import variance_rbf as study

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("style")]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return study.measure(small_generator(tmp_path_factory), resolution=12)


class Ring(nn.Module):
    """A standard deviation that is 1 within a radius and ``outside`` beyond it, the same for three pixels."""

    def __init__(self, radius, outside):
        super().__init__()
        self.radius, self.outside = radius, outside

    def forward(self, z):
        value = torch.where(z.norm(dim=-1) > self.radius, self.outside, 1.0)
        return value.unsqueeze(-1).expand(*value.shape, 3)


def with_ratios(found, network, rbf):
    """Latents in the unit disc, grid points up to 4 away, and standard deviations that grow by two factors between."""
    disc = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    disc = disc / disc.norm(dim=-1, keepdim=True).clamp(min=1)
    vae = nn.Module()
    vae.std = Ring(1.2, network)
    g = dataclasses.replace(found.g, vae=vae, rbf=Ring(1.2, rbf), train_latents=disc, test_latents=disc)
    return dataclasses.replace(found, g=g, grid=LatentGrid.around(4 * disc, resolution=9))


def test_away_is_a_deviation_from_all_data(found):
    points = found.grid.points.reshape(-1, 2)
    nearest = torch.cdist(points, found.g.train_latents).amin(-1)
    expected = points[nearest > found.g.train_latents.std(0).max()]
    assert 0 < len(expected) < len(points)
    torch.testing.assert_close(found.away, expected)


def test_a_grid_that_does_not_leave_the_data_is_refused(found):
    close = LatentGrid.around(found.g.train_latents[:2], resolution=3, margin=0)
    with pytest.raises(ValueError, match="grid: none of its points is away from the data; widen it"):
        _ = dataclasses.replace(found, grid=close).away


@pytest.mark.parametrize(
    ("network", "rbf", "verdicts", "words"),
    [
        (2.0, 200.0, ["supported", "supported"], "Only the RBF tells"),
        (30.0, 200.0, ["contradicted", "supported"], "Both tell"),
        (2.0, 5.0, ["supported", "contradicted"], "Neither of them tells"),
        (30.0, 5.0, ["contradicted", "contradicted"], "Only the network tells"),
    ],
)
def test_verdicts_and_words_follow_the_ratios(*, found, network, rbf, verdicts, words):
    made = with_ratios(found, network, rbf)
    assert made.ratio_of_network == pytest.approx(network)
    assert made.ratio_of_rbf == pytest.approx(rbf)
    assert [claim["verdict"] for claim in made.claims] == verdicts
    assert made.which_tells.startswith(words)


def test_the_area_where_the_network_is_as_sure_as_at_the_data(found):
    assert with_ratios(found, 0.5, 200.0).share_as_sure == 100
    assert with_ratios(found, 2.0, 200.0).share_as_sure == 0


def test_numbers_are_those_of_the_two_variances(found):
    values = {row["quantity"]: row["value"] for row in found.numbers}
    with torch.no_grad():
        rbf, network = (
            float(std(found.away).mean() / std(found.g.test_latents).mean()) for std in (found.g.rbf, found.g.vae.std)
        )
    assert values["RBF: mean sigma away from the data over mean sigma at the data"] == pytest.approx(rbf)
    assert values["variance network: the same ratio"] == pytest.approx(network)


def test_both_maps_share_one_scale_and_one_bar(found):
    figure = panels.variance_maps(found)
    figure.draw_without_rendering()
    assert complaints(figure) == []
    assert figure.get_figwidth() == style.PAGE
    *maps, bar = figure.axes
    assert bar.get_ylabel() == plots.LOG_SIGMA
    assert [panel.get_title() for panel in maps] == ["variance network", "RBF variance"]
    pictures = [panel.images[0] for panel in maps]
    shown = np.stack([picture.get_array() for picture in pictures])
    for picture, std in zip(pictures, (found.g.vae.std, found.g.rbf), strict=True):
        np.testing.assert_allclose(picture.get_array(), summaries.log_sigma(std, found.grid.points), rtol=1e-6)
        assert picture.get_clim() == pytest.approx((shown.min(), shown.max()))
    assert bar.get_ylim() == pytest.approx((shown.min(), shown.max()))
