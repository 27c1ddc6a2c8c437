"""Two moons: the data, the end points, the VAE, the measurements and the figure."""

import dataclasses
import itertools
import types

import pytest
import torch

from geolib.companion.cache import timing
from geolib.companion.figures import plots
from geolib.companion.figures.shortest_curves import two_moons as moon_panels
from geolib.companion.models import generators, training
from geolib.companion.studies.shortest_curves import two_moons as moons

pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def data():
    return moons.load(400)


@pytest.fixture(scope="module")
def g(data, tmp_path_factory):
    """A short training: seconds, and good enough to bend around."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOLIB_DERIVED", str(tmp_path_factory.mktemp("moons")))
        vae = training.trained_vae(data, moons.CONFIG, moons.recipe(60)).vae
    return generators.generator(data, vae, n_centers=48)


@pytest.fixture(scope="module")
def ends(data, g):
    chosen = moons.pairs(data, n_places=3)
    return chosen, g.test_latents[chosen.first], g.test_latents[chosen.second]


# --- data


def tensors(data):
    return [data.train_images, data.train_labels, data.test_images, data.test_labels]


def test_the_same_seed_gives_the_same_data():
    first, second, other = moons.load(200, seed=3), moons.load(200, seed=3), moons.load(200, seed=4)
    assert all(map(torch.equal, tensors(first), tensors(second)))
    assert not torch.equal(first.train_images, other.train_images)
    fingerprints = [moons.load(n, seed=seed).fingerprint for n in (200, 205) for seed in (3, 4)]
    assert len(set(fingerprints)) == 4
    assert first.fingerprint == fingerprints[0]


@pytest.mark.parametrize("n", [50, 203, 400])
def test_points_labels_and_split(n):
    data = moons.load(n)
    assert len(data.train_labels) + len(data.test_labels) == n
    assert len(data.test_labels) == pytest.approx(n / 5, abs=1)
    for points, labels in (
        (data.train_images, data.train_labels),
        (data.test_images, data.test_labels),
    ):
        assert points.shape == (len(labels), 2)
        assert (points.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert labels.unique().tolist() == list(data.classes) == [0, 1]
        assert 0.4 < float(labels.double().mean()) < 0.6
    assert (data.source, data.verified, data.notice) == ("synthetic", True, "")


def test_the_decoder_can_reach_every_point_but_for_rare_noise():
    points = torch.cat([moons.load(1000, seed=seed).train_images for seed in range(5)])
    assert 0 < float(points.min()) < 0.2
    assert 0.8 < float(points.max()) < 1


def test_points_lie_about_two_half_circles(data):
    x, y = ((data.test_images - 0.5) * 4 + torch.tensor([0.5, 0.25])).unbind(-1)
    upper = data.test_labels == 0
    x, y = torch.where(upper, x, 1 - x), torch.where(upper, y, 0.5 - y)
    assert float((torch.hypot(x, y) - 1).std()) == pytest.approx(moons.NOISE, rel=0.3)
    for label in (0, 1):  # in their order along the moon, but for the noise
        own = x[data.test_labels == label]
        assert float(torch.corrcoef(torch.stack([own, torch.arange(len(own)).float()]))[0, 1]) < -0.9


def test_too_few_points():
    with pytest.raises(ValueError, match="n: got 49, expected at least 50"):
        moons.load(49)


# --- pairs


def test_pairs_are_distinct_and_say_which_moons_they_join(data):
    chosen = moons.pairs(data, n_places=4)
    assert len(chosen.first) == len(chosen.second) == 2 * 6 + 16
    together = {frozenset(pair) for pair in zip(chosen.first.tolist(), chosen.second.tolist(), strict=True)}
    assert len(together) == len(chosen.first)
    assert all(len(pair) == 2 for pair in together)
    assert torch.equal(chosen.across, data.test_labels[chosen.first] != data.test_labels[chosen.second])
    assert int(chosen.across.sum()) == 16
    assert (chosen.shown & chosen.across).any()
    assert (chosen.shown & ~chosen.across).any()
    again = moons.pairs(data, n_places=4)
    assert torch.equal(chosen.first, again.first)
    # spread along the moon: places are as many ranks apart
    places = sorted(set(chosen.first[data.test_labels[chosen.first] == 0].tolist()))
    steps = [b - a for a, b in itertools.pairwise(places)]
    assert max(steps) - min(steps) <= 1


@pytest.mark.parametrize("n_places", [1, 41])
def test_more_places_than_points(data, n_places):
    with pytest.raises(ValueError, match=f"n_places: got {n_places}, expected 2 to 40"):
        moons.pairs(data, n_places=n_places)


# --- the model and its curves


def test_the_vae_reconstructs_and_keeps_both_dimensions(data, g):
    assert moons.rms_error(g, data) < 0.2  # of a moon's radius
    assert bool((g.test_latents.std(0) > 0.3).all())
    # moons do not lie on each other: a point's nearest neighbour is of its own moon
    nearest = torch.cdist(g.test_latents, g.train_latents).argmin(-1)
    assert float((data.train_labels[nearest] == data.test_labels).float().mean()) > 0.9


@pytest.mark.slow
def test_what_is_compared_was_found_and_timed(g, ends):
    _, start, end = ends
    timed = moons.compared(g, start, end, repeats=1)
    assert set(timed) == {"cold", "warm", "newton", "graph"}
    for each in timed.values():
        assert each.seconds > 0
        assert each.result.length.shape == (len(start),)
        assert bool((each.result.improvement >= 0).all())
    assert float(timed["cold"].result.improvement.mean()) > 0.01


def test_decoder_evaluations_are_those_of_the_descent(g, ends):
    """One for every point of every curve the descent tries: more with more segments, and in whole curves."""
    _, start, end = ends
    coarse, fine = (moons.descended(g, start, end, n_segments=n) for n in (8, 64))
    assert 9 < coarse.n_evaluations < fine.n_evaluations
    for found in (coarse, fine):
        assert found.points.shape == (len(start), 257, 2)
        torch.testing.assert_close(found.points[:, 0], start)
        torch.testing.assert_close(found.points[:, -1], end)
        assert found.longer.shape == (len(start),)
    # a quadratic: its third differences vanish
    assert float(coarse.points.double().diff(n=3, dim=1).abs().max()) < 1e-5


def test_a_noise_a_point_prefers_low_noise_to_short_ways(g, ends):
    _, start, end = ends
    one = moons.descended(g, start, end)
    many = moons.descended(g, start, end, n_segments=128, noise="independent")
    variance = [g.rbf(found.points).square().sum(-1).mean() for found in (one, many)]
    assert float(variance[1]) < float(variance[0])
    assert int(many.longer.sum()) > int(one.longer.sum())


# --- time


def test_the_median_of_runs_in_turn(monkeypatch):
    clock = iter([0, 9, 0, 1, 0, 2, 0, 1, 0, 3, 0, 1])  # begun, ended, of a and b in turn
    monkeypatch.setattr(timing, "time", types.SimpleNamespace(perf_counter=lambda: float(next(clock))))
    calls = []
    tasks = {name: (lambda name=name: calls.append(name) or len(calls)) for name in "ab"}
    timed = timing.measured(tasks, repeats=3)
    assert calls == list("ababab")
    assert (timed["a"].seconds, timed["b"].seconds) == (3, 1)
    assert (timed["a"].result, timed["b"].result) == (5, 6)
    with pytest.raises(ValueError, match="repeats: got 0, expected at least 1"):
        timing.measured(tasks, repeats=0)


def test_seconds_of_an_evaluation(g):
    assert all(seconds > 0 for seconds in moons.evaluation_seconds(g, n_points=100, repeats=2))


# --- the figure


@pytest.mark.slow
@pytest.mark.usefixtures("style")
def test_the_figure_draws_every_shown_pair(g, ends):
    chosen, start, end = ends
    found = {
        name: each.result
        for name, each in moons.compared(g, start, end, repeats=1).items()
        if name in ("cold", "warm", "graph")
    }
    grid = plots.LatentGrid.around(g.train_latents, resolution=24)
    one = moons.descended(g, start, end).points
    figure = moon_panels.two_moons(grid, g, chosen, found, one, {8: one, 32: one})
    figure.draw_without_rendering()
    own, across = ((chosen.shown & side).sum() for side in (~chosen.across, chosen.across))
    lines = [
        sum(len(c.get_paths()) for c in axes.collections if hasattr(c, "get_segments")) for axes in figure.axes[:3]
    ]
    assert lines == [4 * own, 4 * across, 3 * own]
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert "33 noises" in labels
    # nothing is written over anything else: legends stay below the panels
    top = max(legend.get_window_extent().y1 for legend in figure.legends)
    assert all(axes.get_tightbbox().y0 > top for axes in figure.axes[:3])
    left, right = (legend.get_window_extent() for legend in figure.legends)
    assert left.x1 < right.x0


def test_generators_take_moons_as_they_take_images(data, g):
    assert g.train_latents.shape == (len(data.train_images), 2)
    assert dataclasses.is_dataclass(g)
    first, second = generators.class_pair(g, 0, 1)
    assert first.shape == second.shape == (2,)
