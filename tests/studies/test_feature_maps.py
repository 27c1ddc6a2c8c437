"""feature_maps and expectation: changes of class, sign tests, Eq. 4 against Monte Carlo, the panels of notebook 10."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from project import small_generator
from scipy import stats

from geolib import PullbackMetric
from geolib.companion.figures.output_spaces import feature_maps as panels
from geolib.companion.figures.print_check import complaints
from geolib.companion.models.features import VGG19, VGGWeights, fit_logistic
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies.output_spaces import expectation
from geolib.companion.studies.output_spaces import feature_maps as study
from geolib.companion.studies.output_spaces.feature_maps import SignTest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("style")]

N = 4


@pytest.fixture(scope="module")
def derived(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOLIB_DERIVED", str(tmp_path_factory.mktemp("derived")))
        yield


@pytest.fixture(scope="module")
def g(tmp_path_factory):
    return small_generator(tmp_path_factory)


@pytest.fixture(scope="module")
def logistic(g, derived):
    return fit_logistic(g.data)


@pytest.fixture(scope="module")
def found(g, logistic, derived):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "_CELLS", dict.fromkeys(study.PATHS, 64))
        yield study.measure(g, logistic, n_pairs=N, resolution=24, seed=0, settings={})


@pytest.fixture(scope="module")
def expected(g, logistic):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expectation, "N_PLACES", 5)
        return expectation.measure(g, logistic, n_draws=40, seed=0)


def counted(found, **changes):
    """The same pairs with these numbers of changes of class, of which the fewest are possible."""
    n = len(changes["line"])
    made = dataclasses.replace(found, paths={name: torch.zeros(n, 2, 2) for name in study.PATHS})
    made.__dict__["changes"] = {name: torch.tensor(changes.get(name, changes["line"])) for name in study.PATHS}
    made.__dict__["fewest"] = torch.tensor(changes["fewest"])
    return made


def verdicts(found):
    return [claim["verdict"] for claim in found.claims]


# --- changes of class


def test_equal_steps_lie_on_the_polygon():
    points = torch.tensor([[[0.0, 0.0], [3.0, 0.0], [3.0, 0.0], [3.0, 1.0]], [[0, 0], [0, 1], [0, 2], [0, 2]]])
    steps = study.equal_steps(points, 4)
    torch.testing.assert_close(steps[0], torch.tensor([[0.0, 0.0], [1, 0], [2, 0], [3, 0], [3, 1]]))
    torch.testing.assert_close(steps[1, :, 1], torch.tensor([0.0, 0.5, 1, 1.5, 2]))


def test_the_fewest_changes_are_those_of_the_best_way():
    # a wall of class 1 with a gap, an island of class 2, and a class 3 behind it
    regions = torch.zeros(6, 7, dtype=torch.long)
    regions[:5, 3] = 1
    regions[1, 1] = 2
    regions[:, 6] = 3
    grid = LatentGrid(torch.arange(7.0), torch.arange(6.0))

    def fewest(start, end):
        return int(study.fewest_changes(regions, grid, torch.tensor([start]), torch.tensor([end])))

    assert fewest([0.0, 0.0], [4.0, 0.0]) == 0  # through the gap
    assert fewest([0.2, 0.0], [3.3, 0.0]) == 1  # into the wall
    assert fewest([1.0, 1.0], [4.0, 0.0]) == 1  # from the island
    assert fewest([1.0, 1.0], [6.0, 2.0]) == 2
    assert fewest([9.0, 9.0], [0.0, 5.0]) == 1  # beyond the grid the nearest point counts
    regions[5, 3] = 1  # the gap is closed
    assert fewest([0.0, 0.0], [4.0, 0.0]) == 2
    both = study.fewest_changes(regions, grid, torch.tensor([[0.0, 0], [0, 0]]), torch.tensor([[4.0, 0], [0, 3]]))
    assert both.tolist() == [2, 0]


def test_no_path_has_fewer_changes_than_the_fewest(found):
    for changes in found.changes.values():
        assert (changes >= found.fewest).all()
        assert changes.shape == (N,)


def test_classes_are_the_labels_of_the_decoded_images(found, g, logistic):
    for name in study.PATHS:
        points = found.paths[name]
        assert points.shape == (N, study.STEPS + 1, 2)
        said = logistic.probabilities(g.vae.mean(points[1])).argmax(-1)
        assert found.classes[name][1].tolist() == torch.tensor(logistic.classes)[said].tolist()
        changed = sum(a != b for a, b in zip(said[:-1].tolist(), said[1:].tolist(), strict=True))
        assert found.changes[name][1] == changed
        steps = points.diff(dim=1).norm(dim=-1)
        torch.testing.assert_close(steps, steps.mean(-1, keepdim=True).expand_as(steps), rtol=0.05, atol=1e-4)
        torch.testing.assert_close(points[:, [0, -1]], found.paths["line"][:, [0, -1]])


def test_geodesics_under_a_feature_map_are_shorter_under_it(found, g, logistic):
    for name in ("probabilities", "logits"):
        metric = PullbackMetric(g.vae.mean, g.rbf, getattr(logistic, name))
        midway, step = (found.paths[name][:, 1:] + found.paths[name][:, :-1]) / 2, found.paths[name].diff(dim=1)
        own = torch.einsum("nki,nkij,nkj->nk", step, metric(midway), step).sqrt().sum(-1)
        midway, step = (found.paths["line"][:, 1:] + found.paths["line"][:, :-1]) / 2, found.paths["line"].diff(dim=1)
        line = torch.einsum("nki,nkij,nkj->nk", step, metric(midway), step).sqrt().sum(-1)
        assert (own <= 1.02 * line).all()  # to the error of the grid
        assert (own < 0.98 * line).any()


def test_curves_are_found_once(found, g, logistic, derived, monkeypatch):
    monkeypatch.setattr(study, "global_distances", None)  # whoever solves anew fails
    again = study.measure(g, logistic, n_pairs=N, resolution=24, seed=0, settings={})
    for name in study.PATHS:
        torch.testing.assert_close(again.paths[name], found.paths[name])
    assert (again.error, again.inside) == (found.error, found.inside)
    with pytest.raises(TypeError):
        study.measure(g, logistic, n_pairs=N, resolution=24, seed=1, settings={})


def test_a_sign_test_counts_what_differs():
    first, second = torch.tensor([1, 1, 2, 0, 3]), torch.tensor([2, 3, 2, 1, 1])
    found = SignTest.of(first, second)
    assert (found.fewer, found.more, found.share) == (3, 1, 0.75)
    assert found.p == pytest.approx(stats.binomtest(3, 4).pvalue)
    difference = (first - second).double().numpy()
    low, high = stats.t.interval(0.95, 4, loc=difference.mean(), scale=stats.sem(difference))
    assert (found.mean, *found.interval) == pytest.approx((difference.mean(), low, high))
    same = SignTest.of(first, first)
    assert (same.p, same.share) == (1, 0.5)
    assert math.isnan(SignTest.of(first[:1], second[:1]).interval[0])


@pytest.mark.parametrize(
    ("ours", "fewer", "as_few"),
    [
        ([1] * 20, "supported", "supported"),
        ([2] * 20, "contradicted", "contradicted"),  # as many as on lines and geodesics
        ([3] * 20, "contradicted", "contradicted"),
        ([1] * 3 + [2] * 17, "contradicted", "contradicted"),  # may be chance
        ([1] * 17 + [2] * 3, "supported", "contradicted"),
        ([1] * 18 + [2] * 2, "supported", "supported"),
    ],
)
def test_the_papers_claims(found, ours, fewer, as_few):
    made = counted(found, line=[2] * 20, geodesic=[2] * 20, probabilities=ours, fewest=[1] * 20)
    assert verdicts(made)[:2] == [fewer, as_few]
    assert verdicts(made)[2:] == ["contradicted", "contradicted"]  # logits


def test_both_comparisons_are_needed(found):
    made = counted(found, line=[3] * 20, geodesic=[1] * 20, probabilities=[1] * 20, fewest=[1] * 20)
    assert verdicts(made)[0] == "contradicted"


def test_the_pair_that_is_shown_saves_most(found):
    made = counted(
        found,
        line=[5, 4, 3, 4, 4],
        geodesic=[2, 4, 3, 3, 4],
        probabilities=[2, 1, 1, 1, 2],
        fewest=[1] * 5,
    )
    assert made.shown == 1  # the first has nothing left to save against the geodesic


# --- App. E


class Square(torch.nn.Module):
    """x^2 / 2, whose Jacobian is diag(x)."""

    def forward(self, x):
        return x.square() / 2


def test_monte_carlo_has_the_exact_expectation_of_a_polynomial():
    generator = torch.Generator().manual_seed(0)
    A, B = torch.randn(2, 2, 3, generator=generator, dtype=torch.float64)
    mean, std = (lambda z: z @ A + 1), (lambda z: (z @ B).square() + 0.5)
    z = torch.tensor([[0.3, -0.4], [1.0, 0.2]], dtype=torch.float64)
    noise = torch.randn(40_000, 3, generator=generator, dtype=torch.float64)
    found = expectation.monte_carlo_metric(mean, std, Square(), z, torch.cat([noise, -noise]))
    mu, sigma = mean(z).unsqueeze(-2), std(z).unsqueeze(-2)
    a, b = A.expand(2, 2, 3), 2 * (z @ B).unsqueeze(-2) * B
    # E (mu + sigma e)^2 (a_i + b_i e)(a_j + b_j e) with E e^2 = 1 and E e^4 = 3
    aa, bb = torch.einsum("nik,njk->nijk", a, a), torch.einsum("nik,njk->nijk", b, b)
    ab = torch.einsum("nik,njk->nijk", a, b)
    mu, sigma = mu.unsqueeze(-2), sigma.unsqueeze(-2)
    exact = mu**2 * (aa + bb) + 2 * mu * sigma * (ab + ab.transpose(1, 2)) + sigma**2 * (aa + 3 * bb)
    torch.testing.assert_close(found, exact.sum(-1), rtol=0.03, atol=0.03)
    # Eq. 4 leaves out what the noise does to the Jacobian of the feature map
    eq4 = PullbackMetric(mean, std, Square())(z)
    torch.testing.assert_close(eq4, (mu**2 * (aa + bb)).sum(-1))
    assert (found.diagonal(dim1=1, dim2=2) > 1.1 * eq4.diagonal(dim1=1, dim2=2)).all()


def test_eq_4_is_exact_for_logits_and_where_there_is_no_noise(expected):
    assert expected.ratio["logits"].shape == (len(expectation.SCALES), 5)
    torch.testing.assert_close(expected.ratio["logits"], torch.ones_like(expected.ratio["logits"]), rtol=0.1, atol=0)
    deviation = expected.deviation("probabilities")
    assert deviation[0] < deviation[-1]


def told(deviations):
    ratio = 1 + torch.tensor(deviations).reshape(-1, 1) / 100
    return expectation.Expectation({"probabilities": ratio, "logits": torch.ones_like(ratio)}, 10.0)


def test_where_eq_4_begins_to_matter():
    found = told([0.1, 0.2, 0.5, 1.0, 5.0, 20.0, 40.0])
    assert found.fitted == pytest.approx(5, rel=1e-4)
    assert found.onset == pytest.approx(math.sqrt(2), rel=1e-4)
    assert found.where_it_matters.startswith("It is off by 10 % from 1.4 times")
    assert math.isnan(told([0.1] * 7).onset)
    assert told([0.1] * 7).where_it_matters.startswith("Up to 4 times")
    assert told([30.0] * 7).where_it_matters.startswith("Already at 0.0625 times")


@pytest.mark.parametrize(("fitted", "verdict"), [(4.9, "supported"), (5.1, "contradicted")])
def test_the_claim_on_eq_4(fitted, verdict):
    found = told([0.1, 0.2, 0.5, 1.0, fitted, 20.0, 40.0])
    assert verdicts(found) == ["supported", verdict]
    worse = dataclasses.replace(found, ratio={**found.ratio, "logits": found.ratio["logits"] * 1.02})
    assert verdicts(worse)[0] == "contradicted"


# --- VGG-19


def test_without_weights_the_panel_says_so(found):
    perceptual = study.perceptual(found, 1, None, n_images=5)
    figure = panels.perceptual(perceptual)
    assert any("GEOLIB_VGG" in text.get_text() for text in figure.axes[2].texts)
    assert len(figure.axes[1].images) == 1 and not figure.axes[2].images
    assert perceptual.said.startswith("The last sequence is not drawn: no weights")
    assert perceptual.numbers == []
    assert complaints(figure) == []


def test_with_weights_there_is_a_third_sequence(found):
    torch.manual_seed(0)
    options = {"width": 2, "size": 32, "layer": "relu2_2"}
    weights = VGGWeights(VGG19(**options).state_dict(), "0")
    perceptual = study.perceptual(found, 1, weights, n_images=5, **options)
    assert not perceptual.missing
    assert perceptual.improvement >= 0
    assert "can be shortened by" in perceptual.said
    line, _, ours = perceptual.strips.values()
    torch.testing.assert_close(ours[[0, -1]], line[[0, -1]], rtol=1e-4, atol=1e-4)
    figure = panels.perceptual(perceptual)
    np.testing.assert_allclose(np.asarray(figure.axes[2].images[0].get_array())[:, -28:].ravel(), ours[-1], atol=1e-6)
    assert complaints(figure) == []


# --- panels


def test_sequences_show_images_and_where_classes_begin(found):
    figure = panels.sequences(found, 2, n_images=6)
    for panel, name in zip(figure.axes, ("line", "geodesic", "probabilities"), strict=True):
        images, classes = found.strip(name, 2, 6)
        np.testing.assert_allclose(panel.images[0].get_array(), np.hstack(images.numpy().reshape(6, 28, 28)))
        begins = [k for k in range(6) if k == 0 or classes[k] != classes[k - 1]]
        assert [text.get_text() for text in panel.get_xticklabels()] == [str(classes[k]) for k in begins]
    figure.draw_without_rendering()
    assert complaints(figure) == []


def test_bars_are_the_counts(found):
    figure = panels.classes_crossed(found, 0)
    figure.draw_without_rendering()
    assert complaints(figure) == []
    bars = figure.axes[1].containers
    assert len(bars) == len(study.PATHS) + 1
    for bar, changes in zip(bars, [*(found.changes[name] for name in study.PATHS), found.fewest], strict=True):
        heights = [patch.get_height() for patch in bar]
        assert heights[:4] == [int((changes == k).sum()) for k in range(4)]
        assert heights[4] == int((changes >= 4).sum())


def test_the_expectation_is_fit_for_print(expected):
    figure = panels.expectation(expected)
    figure.draw_without_rendering()
    assert complaints(figure) == []
    lines = {line.get_label().split(":")[0]: line for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines["logits"].get_ydata(), expected.ratio["logits"].quantile(0.5, dim=-1), rtol=1e-6)
