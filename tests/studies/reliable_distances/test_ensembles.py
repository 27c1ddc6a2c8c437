"""Notebook 15's studies: an ensemble's variance and curves, distances over retrainings, members drawn per node."""

import dataclasses
import itertools

import pytest
import torch
from project import small_generator
from scipy import stats

from geolib import PullbackMetric, curve_energy, ensemble, geodesic
from geolib.companion.figures.print_check import complaints
from geolib.companion.figures.reliable_distances import ensembles as panels
from geolib.companion.models import generators
from geolib.companion.models.networks.decoders import Decoders, DecodersConfig, encoded
from geolib.companion.studies.evidence import Verdict
from geolib.companion.studies.reliable_distances import drawn_members, retrainings
from geolib.companion.studies.reliable_distances import ensembles as study
from geolib.companion.studies.reliable_distances.ensembles import ENSEMBLE, NETWORK, RBF, WITHOUT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def g(tmp_path_factory):
    g = small_generator(tmp_path_factory)
    # a random encoder tells no digits apart: labels by place instead
    right, up = ((x > x.median()).long() for x in g.test_latents.T)
    return dataclasses.replace(g, test_labels=torch.tensor(g.data.classes)[2 * right + up])


def members(g, seed=0, n=3):
    config = DecodersConfig(g.vae.config, n_members=n)
    return Decoders(config, generator=torch.Generator().manual_seed(seed)).fixed().ensemble()


@pytest.fixture(scope="module")
def found(g, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOLIB_DERIVED", str(tmp_path_factory.mktemp("derived")))
        return study.measure(g, members(g), n_pairs=3, resolution=11, seed=0, settings={})


def test_the_third_variance_is_drawn_beside_the_others(found, style):
    assert set(found.maps) == set(found.ratios) == {NETWORK, RBF, ENSEMBLE}
    inside = found.members.std(found.grid.points[5, 5][None]).sum().log()
    torch.testing.assert_close(found.maps[ENSEMBLE][5, 5], inside)
    for figure in (panels.variances(found), panels.curves(found)):
        figure.draw_without_rendering()
        assert complaints(figure) == []
    assert all(row["value"] is not None for row in found.numbers + found.curve_numbers)
    assert found.where_it_grows.startswith("Away from the data")
    assert f"With {len(found.members.decoders)} members" in found.what_it_costs


def test_an_ensemble_costs_the_evaluations_of_all_its_members(g, tmp_path, monkeypatch):
    """Three times the same decoder has the same geodesics at three times the evaluations."""
    monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path))
    start, end = g.test_latents[:3], g.test_latents[3:6]
    found, costs = study._found(g, ensemble(3 * [g.vae.mean]), start, end, {})
    torch.testing.assert_close(found[ENSEMBLE].length, found[WITHOUT].length, rtol=1e-3, atol=0)
    assert costs[ENSEMBLE].evaluations == pytest.approx(3 * costs[WITHOUT].evaluations, rel=0.05)
    assert all(cost.seconds > 0 for cost in costs.values())
    again, kept = study._found(g, ensemble(3 * [g.vae.mean]), start, end, {})
    assert kept == costs
    assert torch.equal(again[ENSEMBLE].points, found[ENSEMBLE].points)


@pytest.mark.parametrize(
    ("off", "verdict"),
    [
        ({WITHOUT: [0.5, 0.6, 0.5], ENSEMBLE: [0.1, 0.2, 0.1]}, Verdict.SUPPORTED),
        ({WITHOUT: [0.5, 0.6, 0.5], ENSEMBLE: [0.5, 0.1, 0.9]}, Verdict.CONTRADICTED),
        ({WITHOUT: [0.001, 0.002, 0.001], ENSEMBLE: [0.0, 0.001, 0.0]}, Verdict.NOT_TESTABLE),
    ],
)
def test_what_decides_whether_curves_stay_near_the_data(found, monkeypatch, off, verdict):
    monkeypatch.setattr(study.Ensembles, "share_off", lambda self, name: torch.tensor(off[name]))
    curves = {n: dataclasses.replace(c, status=torch.zeros_like(c.status)) for n, c in found.found.items()}
    assert dataclasses.replace(found, found=curves).claims[0]["verdict"] == str(verdict)
    unsettled = {n: dataclasses.replace(c, status=torch.full_like(c.status, 2)) for n, c in found.found.items()}
    assert dataclasses.replace(found, found=unsettled).claims[0]["verdict"] == str(Verdict.NOT_TESTABLE)


# Retrainings


def distances(ensemble, n=40, seed=0):
    """Of four trainings: the same distances up to scale, with relative noise."""
    random = torch.Generator().manual_seed(seed)
    true = 1 + torch.rand(n, generator=random).double()
    scales = torch.tensor([1.0, 3.0, 0.5, 2.0]).double()[:, None]
    noise = {retrainings.EUCLIDEAN: 0.2, WITHOUT: 0.1, RBF: 0.2, ENSEMBLE: ensemble}
    made = {}
    for kind, size in noise.items():
        made[kind] = scales * true * (1 + size * torch.randn(4, n, generator=random).double()).clamp_min(0.1)
    return retrainings.Retrainings(made, dict.fromkeys(retrainings.KINDS[1:], 4 * n))


def test_scales_do_not_count_and_variation_is_that_of_each_pair():
    found = distances(0.0)
    assert float(found.variation(ENSEMBLE).max()) < 1e-12
    assert found.mean_agreement(ENSEMBLE) == pytest.approx((1.0, 0.0), abs=1e-9)
    values = found.distances[RBF] / found.distances[RBF].mean(1, keepdim=True)
    by_hand = [float(column.std() / column.mean()) for column in values.T]
    torch.testing.assert_close(found.variation(RBF), torch.tensor(by_hand, dtype=torch.float64))


def test_rank_agreement_is_spearmans():
    found = distances(0.1)
    rows = found.distances[RBF].numpy()
    by_hand = [stats.spearmanr(a, b).statistic for a, b in itertools.combinations(rows, 2)]
    torch.testing.assert_close(found.agreement(RBF), torch.tensor(by_hand, dtype=torch.float64))
    mean, half = found.mean_agreement(RBF)
    assert mean == pytest.approx(sum(by_hand) / len(by_hand))
    assert 0 < half < 0.5


@pytest.mark.parametrize(
    ("noise", "verdict"), [(0.02, Verdict.SUPPORTED), (0.2, Verdict.NOT_REPRODUCED), (0.5, Verdict.NOT_REPRODUCED)]
)
def test_what_decides_whether_an_ensemble_varies_less(noise, verdict, style):
    found = distances(noise)
    assert [claim["verdict"] for claim in found.claims] == 2 * [str(verdict)]
    half = dataclasses.replace(found, n_converged={**found.n_converged, ENSEMBLE: 10})
    assert {claim["verdict"] for claim in half.claims} == {str(Verdict.NOT_TESTABLE)}
    said = {Verdict.SUPPORTED: "less than", Verdict.NOT_REPRODUCED: "no differently from"}
    assert (said[verdict] if noise < 0.5 else "more than") in found.which_first
    figure = panels.retrainings(found)
    figure.draw_without_rendering()
    assert complaints(figure) == []


def test_the_same_pairs_are_measured_in_every_training(g):
    again = retrainings.measure([(g, members(g)), (g, members(g, seed=5))], n_pairs=3, seed=0)
    assert (again.n_trainings, again.n_pairs) == (2, 3)
    for kind in (retrainings.EUCLIDEAN, WITHOUT, RBF):
        assert torch.equal(*again.distances[kind])  # the same model twice
        assert float(again.variation(kind).max()) == 0
    assert not torch.equal(*again.distances[ENSEMBLE])
    assert len(again.numbers) == 11
    start, end = (g.test_latents[i] for i in generators.test_pairs(g.data, 3, seed=0))
    known = {kind: geodesic(metric, start, end) for kind, metric in study.metrics(g, members(g)).items()}
    reused = retrainings.measure([(g, members(g)), (g, members(g, seed=5))], n_pairs=3, seed=0, known=known)
    assert torch.equal(reused.distances[ENSEMBLE], again.distances[ENSEMBLE])


# Members drawn anew


def test_the_expected_energy_is_the_mean_over_draws_of_a_member_per_node(g, generator):
    e = members(g)
    points = torch.randn(5, 2, generator=generator)
    images = torch.stack(e.members(points))
    every = itertools.product(range(3), repeat=5)
    energies = [4 * images[list(k), range(5)].diff(dim=0).square().sum() for k in every]
    torch.testing.assert_close(drawn_members.expected_energy(e, points), torch.stack(energies).mean())
    # with one member for both ends of a segment it is the energy of the expected metric
    per_segment = 4 * images.diff(dim=1).square().sum((1, 2)).mean()
    torch.testing.assert_close(curve_energy(PullbackMetric(e), points), per_segment)


def test_it_grows_with_the_number_of_segments_as_the_formula_says(g):
    """N^2 times twice the integral of the members' variance is left."""
    e = members(g)
    energies, t = [], torch.linspace(0, 1, 257)[:, None]
    curve = torch.lerp(g.test_latents[0], g.test_latents[1], t)
    for n in (64, 128, 256):
        energies.append(float(drawn_members.expected_energy(e, curve[:: 256 // n])) / n**2)
    variance = float(e.std(curve).square().sum(-1).mean())
    assert energies[-1] == pytest.approx(2 * variance, rel=0.05)
    metric = PullbackMetric(e)
    own = [float(curve_energy(metric, curve[:: 256 // n])) for n in (64, 256)]
    assert own[0] == pytest.approx(own[1], rel=0.01)


def test_curves_of_least_drawn_energy_depend_on_the_resolution(g, monkeypatch, style):
    monkeypatch.setattr(drawn_members, "_STEPS", 100)
    found = drawn_members.measure(g, members(g), n_segments=32, seed=0)
    assert [level.n_segments for level in found.levels] == [8, 16, 32]
    for level in found.levels:
        assert float(level.drawn.mean()) == pytest.approx(level.predicted, rel=0.1)
        assert level.expected == pytest.approx(float(found.geodesic.length), rel=0.05)
    predicted = [level.predicted for level in found.levels]
    assert predicted == sorted(predicted)
    assert found.excess[-1] > max(0.0, found.excess[0])
    figure = panels.drawn_members(found)
    figure.draw_without_rendering()
    assert complaints(figure) == []
    assert len(found.numbers) == 16
    assert "32 segments" in found.how_it_grows


# Training


def test_rows_carry_the_posterior_and_depend_on_the_encoder(g):
    rows = encoded(g.data, g.vae, "vae-1")
    assert rows.train_images.shape == (len(g.data.train_images), 784 + 4)
    mean, log_variance = g.vae.posterior(g.data.train_images)
    assert torch.equal(rows.train_images, torch.cat([g.data.train_images, mean, log_variance], dim=-1))
    assert rows.fingerprint != g.data.fingerprint
    assert rows.fingerprint != encoded(g.data, g.vae, "vae-2").fingerprint
