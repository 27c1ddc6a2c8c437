"""Two moons: the data, the end points, the VAE, what is measured and said, and the panels."""

import dataclasses
import itertools
import types
from types import SimpleNamespace

import pytest
import torch

from geolib.companion.cache import timing
from geolib.companion.data import moons
from geolib.companion.figures.print_check import complaints
from geolib.companion.figures.shortest_curves import two_moons as panels
from geolib.companion.models import generators, recipes
from geolib.companion.studies.shortest_curves import quadratics
from geolib.companion.studies.shortest_curves import two_moons as study

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data():
    return moons.load(400)


@pytest.fixture(scope="module")
def g(tmp_path_factory):
    """A short training: seconds, and good enough to bend around."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOLIB_DERIVED", str(tmp_path_factory.mktemp("moons")))
        return recipes.recipe("moons", "quick").generator()


@pytest.fixture(scope="module")
def few(data):
    return quadratics.pairs(data, n_places=2)


@pytest.fixture(scope="module")
def ends(data, g):
    chosen = quadratics.pairs(data, n_places=3)
    return chosen, g.test_latents[chosen.first], g.test_latents[chosen.second]


@pytest.fixture(scope="module")
def derived(tmp_path_factory):
    return tmp_path_factory.mktemp("times")


@pytest.fixture(scope="module")
def found(g, few, derived):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOLIB_DERIVED", str(derived))
        return study.measure(g, few, settings={"is": "a test"}, repeats=1)


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
    chosen = quadratics.pairs(data, n_places=4)
    assert len(chosen.first) == len(chosen.second) == 2 * 6 + 16
    together = {frozenset(pair) for pair in zip(chosen.first.tolist(), chosen.second.tolist(), strict=True)}
    assert len(together) == len(chosen.first)
    assert all(len(pair) == 2 for pair in together)
    assert torch.equal(chosen.across, data.test_labels[chosen.first] != data.test_labels[chosen.second])
    assert int(chosen.across.sum()) == 16
    assert (chosen.shown & chosen.across).any()
    assert (chosen.shown & ~chosen.across).any()
    again = quadratics.pairs(data, n_places=4)
    assert torch.equal(chosen.first, again.first)
    # spread along the moon: places are as many ranks apart
    places = sorted(set(chosen.first[data.test_labels[chosen.first] == 0].tolist()))
    steps = [b - a for a, b in itertools.pairwise(places)]
    assert max(steps) - min(steps) <= 1


@pytest.mark.parametrize("n_places", [1, 41])
def test_more_places_than_points(data, n_places):
    with pytest.raises(ValueError, match=f"n_places: got {n_places}, expected 2 to 40"):
        quadratics.pairs(data, n_places=n_places)


# --- the model and its curves


def test_the_vae_reconstructs_and_keeps_both_dimensions(data, g):
    assert quadratics.rms_error(g) < 0.2  # of a moon's radius
    assert bool((g.test_latents.std(0) > 0.3).all())
    # moons do not lie on each other: a point's nearest neighbour is of its own moon
    nearest = torch.cdist(g.test_latents, g.train_latents).argmin(-1)
    assert float((data.train_labels[nearest] == data.test_labels).float().mean()) > 0.9


def test_what_is_compared_was_found_and_timed(found):
    names = {"cold", "warm", "newton", "graph"}
    assert set(found.curves) == names
    assert set(found.seconds) == names | {"mean", "precision"}
    assert all(seconds > 0 for seconds in found.seconds.values())
    for curves in found.curves.values():
        assert curves.length.shape == (found.n,)
        assert bool((curves.improvement >= 0).all())
    assert found.improvement["cold"] > 1


def test_times_are_measured_once_for_the_same_settings(monkeypatch, found, derived, g, few):
    monkeypatch.setenv("GEOLIB_DERIVED", str(derived))
    again = {name: timing.Timed(curves, 1234.0) for name, curves in found.curves.items()}
    monkeypatch.setattr(study, "compared", lambda *_, **__: again)
    assert study.measure(g, few, settings={"is": "a test"}).seconds == found.seconds
    assert study.measure(g, few, settings={"is": "another"}).seconds["cold"] == 1234


def test_decoder_evaluations_are_those_of_the_descent(g, ends):
    """One for every point of every curve the descent tries: more with more segments, and in whole curves."""
    _, start, end = ends
    coarse, fine = (quadratics.descended(g, start, end, n_segments=n) for n in (8, 64))
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
    one = quadratics.descended(g, start, end)
    many = quadratics.descended(g, start, end, n_segments=128, noise="independent")
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
    assert all(seconds > 0 for seconds in quadratics.evaluation_seconds(g, n_points=100, repeats=2))


# --- what it says


def made_up(**changes):
    """A result with curves of given lengths; lines have length 1."""

    def curves(length, converged=True):
        length = torch.tensor(length, dtype=torch.float64)
        return SimpleNamespace(
            length=length, improvement=1 - length, converged=torch.full(length.shape, converged, dtype=torch.bool)
        )

    lengths = {"cold": [0.8] * 4, "warm": [0.8] * 4, "newton": [0.79] * 4, "graph": [0.79] * 4} | changes.pop(
        "lengths", {}
    )
    longer = {"one": 0, study.COARSE: 1, study.FINE: 2} | changes.pop("longer", {})
    evaluations = {"cold": 1000.0, "warm": 1100.0} | changes.pop("evaluations", {})
    seconds = {"cold": 1.0, "warm": 1.2, "newton": 3.0, "graph": 2.0, "mean": 1.0, "precision": 4.0}

    def descended(n, n_evaluations=0.0):
        return quadratics.Descended(torch.zeros(4, 257, 2), torch.arange(4) < n, n_evaluations)

    return study.TwoMoons(
        SimpleNamespace(rbf=SimpleNamespace(centers=torch.zeros(64, 2))),
        quadratics.Pairs(*[torch.arange(4)] * 4),
        {name: curves(length, converged=name != "cold") for name, length in lengths.items()},
        {name: descended(longer["one"], evaluations[name]) for name in ("cold", "warm")},
        {n: descended(longer[n]) for n in (study.COARSE, study.FINE)},
        seconds | changes.pop("seconds", {}),
    )


def test_words_on_quadratics_follow_from_their_lengths():
    assert "20 % shorter than straight lines, and the free curves from a graph 21 %" in made_up().whether_enough
    assert "0 of 4 are geodesics within the tolerance: a quadratic is enough for a drawing" in made_up().whether_enough
    assert made_up(lengths={"cold": [0.9] * 4}).whether_enough.endswith("here a quadratic is too stiff")
    assert made_up().whether_lost.endswith("no free curve does worse than two numbers per curve")
    lost = made_up(lengths={"newton": [0.95, 0.95, 0.79, 0.79]}).whether_lost
    assert "2 of its 4 curves are longer than the quadratics by 1 % and more. All of these converged" in lost
    assert lost.endswith("So a good start matters more here than the freedom to bend")


def test_words_on_the_warm_start_follow_from_counts_and_times():
    assert "would not pay with a slower decoder either" in made_up().whether_warm_pays
    assert "for so small a decoder it does not pay" in made_up(evaluations={"warm": 900.0}).whether_warm_pays
    pays = made_up(evaluations={"warm": 900.0}, seconds={"warm": 0.5}, lengths={"warm": [0.8, 0.8, 0.7, 0.7]})
    assert (
        "the warm start pays here. It makes 0 of 4 quadratics longer and 2 shorter: it is safer"
        in pays.whether_warm_pays
    )
    assert made_up(lengths={"warm": [0.9, 0.8, 0.8, 0.8]}).whether_warm_pays.endswith("it is less safe")
    assert made_up(lengths={"warm": [0.9, 0.7, 0.8, 0.8]}).whether_warm_pays.endswith("not the safer one either")
    assert "takes 4.0 times as long" in made_up().whether_precision_is_faster
    assert made_up(seconds={"mean": 8.0}).whether_precision_is_faster.endswith(
        "1/2.0 of the time of the decoder's mean"
    )


def test_words_on_the_noise_follow_from_what_is_longer():
    assert made_up().whether_literal.endswith("So refining makes it worse: Eq. 4 needs one noise for the whole curve")
    assert made_up(longer={study.COARSE: 2}).whether_literal.endswith("0. So Eq. 4 needs one noise for the whole curve")
    none = made_up(longer={study.COARSE: 0, study.FINE: 0})
    assert none.whether_literal.endswith("the choice of the noise changes little")


def verdicts(claims):
    return {claim["claim"]: claim["verdict"] for claim in claims}


def test_the_papers_claims_can_be_decided_either_way():
    assert verdicts(made_up().claims_of_the_warm_start) == {
        study.WARM.text: "not reproduced",
        study.FASTER.text: "not reproduced",
    }
    fast = made_up(evaluations={"warm": 900.0}, seconds={"warm": 0.5, "mean": 8.0})
    assert set(verdicts(fast.claims_of_the_warm_start).values()) == {"supported"}
    # fewer evaluations alone are not faster, nor is less time that comes from elsewhere
    for changes in ({"evaluations": {"warm": 900.0}}, {"seconds": {"warm": 0.5}}):
        assert verdicts(made_up(**changes).claims_of_the_warm_start)[study.WARM.text] == "not reproduced"
    assert verdicts(made_up().claims_of_the_noise) == {study.LITERAL.text: "contradicted"}
    assert verdicts(made_up(longer={study.FINE: 0}).claims_of_the_noise) == {study.LITERAL.text: "supported"}
    for claim, good, bad in (
        (study.SHORTER, {"share": 0.9}, {"share": 0.8}),
        (study.FOLLOWING, {"share": 0.7}, {"share": 0.6}),
        (study.ENOUGH, {"median": 5.0}, {"median": 5.1}),
    ):
        assert claim.decide("", **good)["verdict"] == "supported"
        assert claim.decide("", **bad)["verdict"] != "supported"


def test_what_is_said_of_real_curves_is_what_was_measured(found, g, few):
    start, end = g.test_latents[few.first], g.test_latents[few.second]
    assert found.n == len(start)
    quadratics = found.drawn("cold")
    torch.testing.assert_close(quadratics[:, 0], start)
    torch.testing.assert_close(quadratics[:, -1], end)
    nearer = 0
    lines = []
    for curve in quadratics:
        t = torch.linspace(0, 1, len(curve)).unsqueeze(-1)
        lines.append(curve[0] + t * (curve[-1] - curve[0]))
        gaps = [torch.cdist(points, found.g.train_latents).amin(-1).mean() for points in (curve, lines[-1])]
        nearer += bool(gaps[0] < gaps[1] - 1e-6)
    assert found.n_nearer == nearer > 0
    mirrored = SimpleNamespace(curve=lambda _: 2 * torch.stack(lines) - quadratics)  # bent the other way
    assert dataclasses.replace(found, curves={"cold": mirrored}).n_nearer < nearer
    rows = {
        row["quantity"]: row["value"]
        for row in found.numbers + found.numbers_of_the_warm_start + found.numbers_of_the_noise
    }
    assert len(rows) == 26
    assert rows["mean improvement over lines, quadratic"] == 100 * float(
        found.curves["cold"].improvement.double().mean()
    )
    assert rows["seconds, quadratic"] == found.seconds["cold"]
    assert len(found.claims + found.claims_of_the_warm_start + found.claims_of_the_noise) == 6


# --- the panels


def drawn_lines(axes):
    return sum(len(c.get_paths()) for c in axes.collections if hasattr(c, "get_segments"))


@pytest.mark.usefixtures("style")
def test_the_maps_draw_every_shown_pair_over_all_test_data(found):
    own, across = (int((found.joined.shown & side).sum()) for side in (~found.joined.across, found.joined.across))
    maps = panels.two_moons(found, resolution=24)
    assert [drawn_lines(axes) for axes in maps.axes[:2]] == [3 * own, 3 * across]
    noises = panels.noise(found, resolution=24)
    assert drawn_lines(noises.axes[0]) == 3 * own
    assert [text.get_text() for text in noises.legends[0].get_texts()] == ["one noise", "9 noises", "129 noises"]
    for figure in (maps, noises):
        figure.draw_without_rendering()
        bottom = figure.legends[0].get_window_extent().y0
        for axes in figure.axes[:-1]:
            assert axes.get_tightbbox().y1 <= bottom + 1, "the legend lies over data"
            moons_drawn = [c for c in axes.collections if len(c.get_offsets()) > 20]
            assert sum(len(c.get_offsets()) for c in moons_drawn) == len(found.g.test_latents)
        assert "sigma" in figure.axes[-1].get_ylabel()
        assert complaints(figure) == []
    assert maps.axes[0].images[0].get_clim() == maps.axes[1].images[0].get_clim()


@pytest.mark.usefixtures("style")
def test_the_warm_start_is_drawn_with_its_costs(found):
    figure = panels.warm_start(found)
    lengths, evaluations, seconds = figure.axes
    points = [tuple(p) for c in lengths.collections for p in c.get_offsets().tolist()]
    expected = zip(
        *((100 * found.curves[name].improvement.double()).tolist() for name in ("cold", "warm")), strict=True
    )
    assert sorted(points) == [pytest.approx(p, abs=1e-4) for p in sorted(expected)]
    widths = [bar.get_width() for bar in evaluations.patches]
    assert widths == [found.descents[name].n_evaluations for name in ("cold", "warm")]
    assert [bar.get_width() for bar in seconds.patches] == [
        found.seconds[name] for name in ("cold", "warm", "newton", "graph")
    ]
    assert all(axes.get_xlabel() for axes in figure.axes)
    figure.draw_without_rendering()
    assert complaints(figure) == []


def test_generators_take_moons_as_they_take_images(data, g):
    assert g.train_latents.shape == (len(data.train_images), 2)
    assert dataclasses.is_dataclass(g)
    first, second = generators.class_pair(g, 0, 1)
    assert first.shape == second.shape == (2,)
