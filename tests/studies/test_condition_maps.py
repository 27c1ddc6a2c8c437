"""Notebook 03's study and panel: condition numbers and eigenvectors on the map, at the data, over the prior."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from project import small_generator

import geolib
from geolib.companion.figures import style
from geolib.companion.figures.linear_interpolation import condition_maps as panels
from geolib.companion.figures.print_check import complaints
from geolib.companion.models import generators
from geolib.companion.studies.linear_interpolation import condition_maps as study

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("style")]


@pytest.fixture(scope="module")
def g(tmp_path_factory):
    return small_generator(tmp_path_factory)


@pytest.fixture(scope="module")
def found(g):
    return study.measure(g, [], resolution=12, seed=0)


def place(conditions, degrees):
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    v_max = torch.stack([angles.cos(), angles.sin()], dim=-1)
    return study.Place(torch.tensor(conditions, dtype=torch.float64), v_max.flip(-1), v_max)


def test_everything_is_measured_in_double_precision(found, g):
    exact = generators.in_double(g)
    assert found.map.condition.dtype == torch.float64
    torch.testing.assert_close(found.data.condition, geolib.condition_number(exact.metric(exact.test_latents)))
    v_min, v_max = geolib.extremal_directions(exact.metric(found.grid.points))
    torch.testing.assert_close(found.map.v_min, v_min)
    torch.testing.assert_close(found.map.v_max, v_max)
    assert found.map.condition.shape == (12, 12)


def test_the_prior_is_drawn_from_the_seed(found, g):
    again, other = (study.measure(g, [], resolution=4, seed=seed).prior for seed in (0, 1))
    assert torch.equal(again.condition, found.prior.condition)
    assert not torch.equal(other.condition, found.prior.condition)


def test_a_row_per_quantity_and_place(found):
    rows = {row["quantity"]: row["value"] for row in found.numbers}
    assert len(rows) == 9
    for where, there in (("at the test data", found.data), ("over the prior", found.prior), ("on the map", found.map)):
        assert rows[f"median condition number {where}"] == there.median
        assert rows[f"decades spanned by the condition number {where}"] == there.decades
        assert rows[f"alignment of the maximal eigenvectors {where}"] == there.alignment


@pytest.mark.parametrize(
    ("conditions", "degrees", "verdicts", "anisotropy", "homogeneity"),
    [
        ([2.0] * 100, [10.0, 20.0], ["contradicted"] * 3, "is not", "vary around one main direction"),
        ([20.0] * 100, [0.0, 90.0], ["supported", "contradicted", "supported"], "is", "have no common direction"),
        ([1.0, 2.0, 1e3] * 40, [0.0, 90.0], ["contradicted", "supported", "supported"], "is not", "have no common"),
        ([1.0, 30.0, 1e3] * 40, [0.0, 50.0], ["supported", "supported", "contradicted"], "is", "vary around one"),
    ],
)
def test_verdicts_and_words_follow_the_data(*, found, conditions, degrees, verdicts, anisotropy, homogeneity):
    made = dataclasses.replace(found, data=place(conditions, degrees))
    assert [claim["verdict"] for claim in made.claims] == verdicts
    assert made.anisotropy == anisotropy
    assert made.homogeneity.startswith(homogeneity)
    assert made.ratio_of_rates == pytest.approx(math.sqrt(made.data.median))


def test_the_map_is_compared_with_the_data(found):
    at_data = place([2.0] * 10, [0.0])
    far = dataclasses.replace(found, data=at_data, map=place([12.0] * 10, [0.0]))
    assert "6 times as large" in far.beyond_the_data
    alike = dataclasses.replace(found, data=at_data, map=place([2.5] * 10, [0.0]))
    assert alike.beyond_the_data.endswith("about the same")
    less = dataclasses.replace(found, data=at_data, map=place([1.0] * 10, [0.0]))
    assert less.beyond_the_data.endswith("smaller")


def test_both_maps_share_one_scale_that_follows_the_data(found):
    figure = panels.condition_maps(found)
    figure.draw_without_rendering()
    assert complaints(figure) == []
    assert figure.get_figwidth() == style.PAGE
    *maps, bar = figure.axes
    assert [panel.get_title() for panel in maps] == ["minimal eigenvectors", "maximal eigenvectors"]
    assert bar.get_ylabel().startswith(r"$\log_{10}$ condition number")
    top = float(found.data.condition.log10().quantile(0.99))
    for panel in maps:
        assert panel.get_xlabel() == "$z_1$"
        np.testing.assert_allclose(panel.images[0].get_array(), found.map.condition.log10())
        assert panel.images[0].get_clim() == pytest.approx((0, top))
    assert maps[0].get_ylabel() == "$z_2$"


def test_retrained_models_are_measured_at_their_own_data(g):
    found = study.measure(g, [g, g], resolution=4, seed=0)
    for each in found.retrained:
        assert torch.equal(each.condition, found.data.condition)
    rows = {row["quantity"]: row["value"] for row in found.numbers if row["id"] == "B-3"}
    assert len(rows) == 6
    assert rows["median condition number at the test data: standard deviation between models"] == 0
    random = torch.randint(len(found.data.condition), (400, len(found.data.condition)))
    medians = torch.stack([found.data.condition[each].quantile(0.5) for each in random])
    within = rows["median condition number at the test data: standard error within a model"]
    assert within == pytest.approx(float(medians.std()), rel=0.3)
