"""Notebook 13's study: distances against the truth, magnification, smoothing, a second metric, and what is said."""

import dataclasses
import math

import pytest
import torch
from project import bundled
from scipy import stats

from geolib import PullbackMetric, geodesic, magnification_factor
from geolib.companion.data import pendulum, robot_arm
from geolib.companion.figures.print_check import complaints
from geolib.companion.figures.reliable_distances import metrics_for_generative_models as panels
from geolib.companion.models import generators
from geolib.companion.models.features import bernoulli_angles
from geolib.companion.models.networks.iwae import IWAE, IWAEConfig
from geolib.companion.studies import evenness, summaries
from geolib.companion.studies.evidence import Verdict
from geolib.companion.studies.reliable_distances import metrics_for_generative_models as study

pytestmark = pytest.mark.smoke

PAIRS = 3


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Random decoders over real data, for tests that do not ask what they show."""
    digits = bundled(tmp_path_factory)
    parts = {
        f"{part}_{kind}": getattr(digits, f"{part}_{kind}")
        for part in ("train", "test")
        for kind in ("images", "labels")
    }
    digits = dataclasses.replace(digits, **{name: values[:200] for name, values in parts.items()})
    found = {}
    for name, data, likelihood in (
        (study.PENDULUM, pendulum.load(100), "gaussian"),
        (study.ARM, robot_arm.load(100), "gaussian"),
        (study.DIGITS, digits, "bernoulli"),
    ):
        config = IWAEConfig(data_dim=data.train_images.shape[1], widths=(16, 8), likelihood=likelihood)
        model = IWAE(config, generator=torch.Generator().manual_seed(1)).fixed()
        found[name] = generators.mean_generator(data, model)
    return found


@pytest.fixture(scope="module")
def found(models):
    return study.measure(models, n_pairs=PAIRS, resolution=9, seed=0)


def test_every_data_set_has_its_pairs_and_its_map(found):
    assert list(found.sets) == list(study.RECIPES)
    for one in found.sets.values():
        assert (one.n, one.n_converged) == (PAIRS, PAIRS)
        assert one.log_volume.shape == (9, 9)
        exact = generators.mean_in_double(one.g)
        expected = magnification_factor(exact(one.g.test_latents.double())).log()
        torch.testing.assert_close(one.log_volume_at_data, expected)
        assert list(one.bounds) == [1, 5, 50]
        assert all(math.isfinite(value) for value in one.bounds.values())


def test_lower_is_the_difference_along_curves_by_latent_length(found):
    one = found.sets[study.ARM]
    exact = generators.mean_in_double(one.g)

    def mean(points):
        # by the trapezoidal rule over latent length
        values = magnification_factor(exact(points)).log()
        weights = points.diff(dim=1).norm(dim=-1)
        return ((values[:, 1:] + values[:, :-1]) / 2 * weights).sum(-1) / weights.sum(-1)

    torch.testing.assert_close(one.lower, mean(one.curves.geodesic) - mean(one.curves.line), rtol=0.05, atol=1e-3)


def test_the_angle_is_that_between_the_joined_pendulums(models, found):
    g = models[study.PENDULUM]
    first, second = generators.test_pairs(g.data, PAIRS, seed=0)
    expected = [
        math.acos(math.cos(float(pendulum.test_angles(g.data)[a] - pendulum.test_angles(g.data)[b])))
        for a, b in zip(first, second, strict=True)
    ]
    assert found.distances.angle.tolist() == pytest.approx(expected)
    straight = (g.test_latents[first] - g.test_latents[second]).norm(dim=-1)
    torch.testing.assert_close(found.distances.euclidean.float(), straight)
    torch.testing.assert_close(found.distances.geodesic, found.sets[study.PENDULUM].length)


def distances(geodesic, euclidean, n=60):
    """Distances that keep so much of the angles' order."""
    random = torch.Generator().manual_seed(0)
    angle = torch.linspace(0, 3, n, dtype=torch.float64)
    noise = torch.randn(2, n, generator=random, dtype=torch.float64)
    return study.Distances(angle, geodesic * angle.exp() + noise[0], euclidean * angle.exp() + noise[1])


@pytest.mark.parametrize(
    ("kept", "verdict"),
    [
        ((10.0, 0.05), Verdict.SUPPORTED),
        ((10.0, 10.0), Verdict.CONTRADICTED),  # both reflect it
        ((0.05, 0.0), Verdict.CONTRADICTED),  # none does
    ],
)
def test_the_claim_about_similarity_is_decided_by_ranks(kept, verdict):
    made = distances(*kept)
    (claim,) = made.claims
    assert claim["verdict"] == verdict
    for name in ("geodesic", "euclidean"):
        low, high = made.interval(name)
        assert low < made.correlation(name) < high + 1e-9
        assert made.words(name) in [row["value"] for row in made.numbers]


def test_rank_correlations_are_those_of_scipy():
    columns = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).cumsum(0)
    assert summaries.rank_correlation(columns) == pytest.approx(stats.spearmanr(columns.numpy()).statistic)
    columns[10:20] = columns[0]  # ties
    assert summaries.rank_correlation(columns) == pytest.approx(stats.spearmanr(columns.numpy()).statistic)
    assert summaries.rank_correlation(torch.ones(5, 2)) == 0


@pytest.mark.parametrize(
    ("lower", "verdict"),
    [
        ([-0.2, -0.3, -0.25], Verdict.SUPPORTED),
        ([-0.2, 0.3, -0.25], Verdict.NOT_REPRODUCED),
        ([0.2, 0.3, 0.25], Verdict.CONTRADICTED),
        ([-0.2], Verdict.NOT_TESTABLE),
    ],
)
def test_low_magnification_is_decided_by_the_interval(found, lower, verdict):
    one = dataclasses.replace(found.sets[study.DIGITS], lower=torch.tensor(lower))
    evenly, low = one.claims
    assert (low["id"], low["verdict"]) == ("CH-3", verdict)
    assert evenly["id"] == "CH-3"


def test_without_smoothing_nothing_is_longer(found):
    for one in found.sets.values():
        assert [each.strength for each in one.smoothings] == list(study.STRENGTHS)
        plain, *others = one.smoothings
        assert torch.equal(plain.longer, torch.zeros(len(plain.longer)).double())
        assert all(float(each.longer.min()) > -1e-3 for each in others)
        # the slope of s^3 / (s^2 + lambda) on a logarithmic scale is between 1 and 3
        spreads = [each.spread for each in one.smoothings]
        assert all(plain.spread - 1e-6 <= spread <= 3 * plain.spread + 1e-6 for spread in spreads)


@pytest.mark.parametrize(
    ("high", "converged", "verdict"),
    [
        (0.05, 3, Verdict.SUPPORTED),
        (0.3, 3, Verdict.CONTRADICTED),
        (0.3, 2, Verdict.NOT_TESTABLE),  # of five curves
    ],
)
def test_the_claim_about_smoothing_asks_every_strength(found, high, converged, verdict):
    one = found.sets[study.PENDULUM]
    even = [dataclasses.replace(each, variation=torch.full((5,), 0.02), n_converged=5) for each in one.smoothings]
    even[2] = dataclasses.replace(even[2], variation=torch.full((5,), high), n_converged=converged)
    made = dataclasses.replace(found, sets=found.sets | {study.PENDULUM: dataclasses.replace(one, smoothings=even)})
    assert made.smoothing_claims[0]["verdict"] == verdict


def test_the_second_metric_is_that_of_bernoulli_pixels(models, found):
    g = models[study.DIGITS]
    metric = PullbackMetric(g.model.logits, features=bernoulli_angles)
    expected = magnification_factor(metric(g.test_latents)).log()
    torch.testing.assert_close(found.fisher_rao.log_volume_at_data.float(), expected, rtol=1e-3, atol=1e-3)
    # no curve is shorter than the geodesics of the metric that measures it
    assert float(found.fisher_rao.longer.min()) > -1e-4
    first, second = generators.test_pairs(g.data, PAIRS, seed=0)
    again = geodesic(metric, g.test_latents[first], g.test_latents[second], init="line")
    t = torch.linspace(0, 1, evenness.STEPS + 1)
    torch.testing.assert_close(found.fisher_rao.geodesic.float(), again.curve(t), rtol=1e-2, atol=1e-2)


def test_curves_that_leave_the_map_are_counted_and_not_shown(found):
    one = found.sets[study.ARM]
    edge = float(one.grid.x[-1])
    points = one.curves.geodesic.clone()
    points[one.shown, 5, 0] = edge + 0.1
    leaving = study._outside(points, one.grid)
    assert leaving.nonzero().flatten().tolist() == [one.shown]
    left = dataclasses.replace(one, leaving=leaving)
    assert left.shown != one.shown
    assert f"1 of {PAIRS} geodesics leave" in left.volume_words
    assert dataclasses.replace(one, leaving=torch.ones(PAIRS, dtype=torch.bool)).shown == one.shown


def test_what_is_said_names_every_data_set(found):
    for name in study.KEYS:
        assert name in found.smoothing_words
        assert name in found.evenness_words
    keys = {row["id"] for one in found.sets.values() for row in one.numbers}
    assert keys == {"CH-1", "CH-3", "CH-4"}
    assert {row["id"] for row in found.smoothing_numbers} == {"CH-2"}
    assert "rank correlation" in found.fisher_rao.words


@pytest.mark.usefixtures("style")
@pytest.mark.parametrize("panel", ["pendulum", "arm", "digits", "evenness", "smoothing"])
def test_panels_are_fit_for_print(found, panel):
    figure = getattr(panels, panel)(found)
    figure.canvas.draw()
    assert complaints(figure) == []


@pytest.mark.usefixtures("style")
def test_distances_are_fit_for_print(found):
    figure = panels.distances(found.distances)
    figure.canvas.draw()
    assert complaints(figure) == []
