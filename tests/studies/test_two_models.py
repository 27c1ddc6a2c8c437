"""Notebook 05: what it says of pairs in two models, and its panels."""

import dataclasses
import functools
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib import colors
from project import bundled

import geolib
from geolib.companion.figures import style
from geolib.companion.figures.linear_interpolation import two_models as panels
from geolib.companion.figures.print_check import complaints
from geolib.companion.models import generators
from geolib.companion.models.features import fit_logistic
from geolib.companion.models.networks.vae import VAE, VAEConfig
from geolib.companion.studies.linear_interpolation import rankings
from geolib.companion.studies.linear_interpolation import two_models as study
from geolib.evaluation import ModelComparison

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("style")]

N = 6
compare_models = functools.partial(geolib.compare_models, max_steps=5)  # what is asked of them needs no geodesics


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    with pytest.MonkeyPatch.context() as patch:
        for module in (study, rankings):
            patch.setattr(module, "compare_models", compare_models)
        yield


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Two random decoders over real digits: no training, and yet two metrics."""
    data = bundled(tmp_path_factory, (2, 4, 5, 7))
    data = dataclasses.replace(data, train_images=data.train_images[:300], train_labels=data.train_labels[:300])
    models = []
    for widths, seed in (((24, 12), 1), ((12,), 2)):
        vae = VAE(VAEConfig(widths=widths), generator=torch.Generator().manual_seed(seed))
        models.append(generators.generator(data, vae.eval().requires_grad_(False), n_centers=8, curvature=4.0))
    first, second = generators.test_pairs(data, N, seed=0)
    sides = [(g.metric, g.test_latents[first], g.test_latents[second]) for g in models]
    comparison = compare_models(*sides)
    half = dataclasses.replace(comparison, threshold=float(comparison.difference.median()))
    return study.TwoModels(tuple(models), first, second, half)


def told(a, b, *, threshold=0.005, lengths=None, labels=None):
    """What the study says of made-up improvements."""
    n = len(a)
    length = torch.tensor(lengths or [1.0] * n)
    sides = [SimpleNamespace(improvement=torch.tensor(side), line_length=length) for side in (a, b)]
    labels = torch.tensor(labels or [0] * 2 * n)
    models = (SimpleNamespace(test_labels=labels),) * 2
    index = torch.arange(2 * n)
    return study.TwoModels(models, index[:n], index[n:], ModelComparison(*sides, threshold))


# --- what it says


@pytest.mark.parametrize(
    ("a", "b", "different", "comparable"),
    [
        ([0.01, 0.02, 0.03, 0.04], [0.02, 0.04, 0.06, 0.08], "supported", "contradicted"),  # none is comparable
        ([0.01, 0.02, 0.03, 0.04], [0.01, 0.02, 0.03, 0.04], "contradicted", "contradicted"),  # all are
        ([0.001, 0.001, 0.001], [0.003, 0.003, 0.003], "contradicted", "contradicted"),  # small differences
        ([0.01] * 3 + [0.02] * 4, [0.01] * 3 + [0.04] * 4, "supported", "supported"),
        ([0.01] * 3 + [0.02] * 4, [0.01] * 3 + [0.03] * 4, "contradicted", "supported"),
        ([0.01] * 2 + [0.02] * 4, [0.01] * 2 + [0.04] * 4, "supported", "contradicted"),  # fewer than the paper names
    ],
)
def test_the_papers_claims(a, b, different, comparable):
    verdicts = {claim["claim"]: claim["verdict"] for claim in told(a, b).claims}
    assert verdicts == {study.DIFFERENT.text: different, study.COMPARABLE.text: comparable}


def test_words_follow_from_what_was_measured():
    flat = told([0.004, 0.1, 0.2], [0.002, 0.01, 0.01], lengths=[1.0, 4.0, 6.0], labels=[2, 2, 2, 2, 4, 4])
    assert flat.why_comparable.startswith("None of them can be shortened by more than 0.4 % in either model: they are")
    assert flat.where_comparable.startswith(
        "1 of the 1 comparable pairs join two images of one class, and 0 of the other"
    )
    assert "0.20 times as long" in flat.where_comparable
    assert flat.where_comparable.endswith("the comparable lines are the short ones")
    bent = told([0.101, 0.1, 0.2], [0.1, 0.01, 0.01], lengths=[8.0, 4.0, 4.0])
    assert bent.why_comparable.endswith("they deviate by about as much in both")
    assert bent.where_comparable.endswith("the comparable lines are the long ones")
    alike = told([0.101, 0.1, 0.2], [0.1, 0.01, 0.01])
    assert alike.where_comparable.endswith("length alone does not make a pair comparable")
    none = told([0.1, 0.2], [0.2, 0.3])
    assert none.why_comparable == "No pair is within the threshold"
    assert none.where_comparable.startswith("0 of 2 pairs are comparable")


def test_the_numbers_are_those_of_the_comparison(found):
    rows = {row["quantity"]: row["value"] for row in found.numbers + found.numbers_of_the_most_alike}
    comparison = found.comparison
    assert rows["mean improvement of VAE1"] == pytest.approx(100 * float(comparison.a.improvement.mean()))
    assert rows[f"comparable pairs of {N}"] == int(comparison.comparable.sum())
    order = found.most_alike(N)
    assert order[0] == comparison.best
    assert rows["difference of improvements of the most alike pair"] == 100 * float(comparison.difference[order[0]])
    differences = comparison.difference[order].tolist()
    assert differences == sorted(differences)


def test_strips_begin_and_end_with_the_decoded_ends_and_step_evenly_along_the_curve(found):
    strips = found.strips(1, 9)
    for (line, curve), g in zip((strips[:2], strips[2:]), found.models, strict=True):
        for strip in (line, curve):
            assert strip.shape == (9, 784)
            torch.testing.assert_close(strip[0], g.vae.mean(g.test_latents[found.first[1]]))
            torch.testing.assert_close(strip[-1], g.vae.mean(g.test_latents[found.second[1]]))
    middle = found.models[0].test_latents[[int(found.first[1]), int(found.second[1])]].mean(0)
    torch.testing.assert_close(strips[0][4], found.models[0].vae.mean(middle))
    torch.testing.assert_close(strips[1][4], found.models[0].vae.mean(found.comparison.a.points[1, 16]))


def test_strips_that_are_the_same_are_said_to_be(found):
    comparison = ModelComparison(found.comparison.a, found.comparison.a, 1)
    same = study.TwoModels((found.models[0],) * 2, found.first, found.second, comparison)
    assert "the two models' lines by 0.0 grey levels" in same.look_alike([0, 1])
    assert same.look_alike([0, 1]).endswith("must be compared with care")


def test_retrained_models_get_the_same_pairs(found):
    again = study.measure(found.models, found.first, found.second, found.comparison, [found.models[::-1]])
    (swapped,) = again.retrained
    expected = compare_models(
        *((g.metric, g.test_latents[found.first], g.test_latents[found.second]) for g in found.models[::-1])
    )
    torch.testing.assert_close(swapped.a.improvement, expected.a.improvement)
    assert swapped.threshold == found.comparison.threshold
    rows = {row["quantity"]: row["value"] for row in again.numbers if row["id"] == "B-3"}
    assert len(rows) == 6
    means = 100 * torch.stack([found.comparison.a.improvement.mean(), swapped.a.improvement.mean()])
    within = rows["mean improvement of VAE1: standard error within a model"]
    between = rows["mean improvement of VAE1: standard deviation between models"]
    assert between == pytest.approx(max(0.0, float(means.double().var()) - within**2) ** 0.5, rel=1e-3, abs=1e-6)
    assert not [row for row in found.numbers if row["id"] == "B-3"]


# --- panels


def test_pairs_stand_above_each_other(found):
    figure = panels.pairs(found)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(n + 1) for n in range(N)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["start", "end"]
    shown = np.asarray(axes.images[0].get_array())
    images = found.models[0].data.test_images
    np.testing.assert_array_equal(shown[:28, 28:56].ravel(), images[found.first[1]])
    np.testing.assert_array_equal(shown[28:, 28:56].ravel(), images[found.second[1]])


def test_bars_are_the_improvements_and_bands_the_comparable_pairs(found):
    figure = panels.improvements(found)
    (axes,) = figure.axes
    heights = [bar.get_height() for container in axes.containers for bar in container]
    expected = [100 * float(v) for side in (found.comparison.a, found.comparison.b) for v in side.improvement]
    assert heights == pytest.approx(expected, rel=1e-5)
    bars = {id(bar) for container in axes.containers for bar in container}
    bands = [patch.get_x() + 0.5 for patch in axes.patches if id(patch) not in bars]
    assert bands == [n + 1 for n in range(N) if found.comparison.comparable[n]]
    assert 0 < len(bands) < N
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("pair", "relative improvement [%]")
    figure.draw_without_rendering()
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[:2] == ["VAE1", "VAE2"]
    assert labels[2].startswith("comparable: within ")
    assert legend.get_window_extent().y0 >= axes.get_window_extent().y1, "the legend lies over data"


def test_every_line_has_its_number_in_both_spaces(found):
    figure = panels.latent_lines(found, resolution=12)
    figure.draw_without_rendering()
    left, right, bar = figure.axes
    assert [panel.get_title() for panel in (left, right)] == ["VAE1", "VAE2"]
    assert left.get_xlim() == right.get_xlim()
    assert left.images[0].get_clim() == right.images[0].get_clim()
    assert "det" in bar.get_ylabel()
    comparable = {n for n in range(N) if found.comparison.comparable[n]}
    for panel, curves in ((left, found.comparison.a), (right, found.comparison.b)):
        circled = {text.get_text(): text for text in panel.texts if text.get_bbox_patch() is not None}
        assert sorted(map(int, circled)) == [n + 1 for n in range(N)]
        coloured = {n for n in range(N) if colors.to_hex(circled[str(n + 1)].get_color()).upper() in style.PALETTE}
        assert coloured == comparable
        boxes = [text.get_bbox_patch().get_window_extent() for text in circled.values()]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2)), "numbers lie on each other"
        for n in range(N):  # and stand near their line
            start, end = np.asarray(curves.points[n][[0, -1]])
            on_line = start + np.linspace(0, 1, 101)[:, None] * (end - start)
            distance = np.linalg.norm(on_line - circled[str(n + 1)].get_position(), axis=-1).min()
            assert distance < 0.07 * np.diff(panel.get_xlim())


def test_a_sequence_has_lines_and_curves_of_both_models_between_the_originals(found):
    figure = panels.sequence(found, [2, 0], n_images=5)
    assert len(figure.axes) == 6
    for (start, strips, end), pair in zip((figure.axes[:3], figure.axes[3:]), (2, 0), strict=True):
        images = found.models[0].data.test_images
        np.testing.assert_array_equal(np.asarray(start.images[0].get_array()).ravel(), images[found.first[pair]])
        np.testing.assert_array_equal(np.asarray(end.images[0].get_array()).ravel(), images[found.second[pair]])
        shown = np.asarray(strips.images[0].get_array())
        assert shown.shape == (4 * 28, 5 * 28)
        for row, strip in enumerate(found.strips(pair, 5)):
            np.testing.assert_allclose(shown[28 * row : 28 * row + 28, -28:].ravel(), strip[-1], atol=1e-6)
        assert start.get_ylabel() == f"pair {pair + 1}"
        assert strips.get_yticklabels()[0].get_text() == "VAE1, line"
        assert {image.get_clim() for axes in (start, strips, end) for image in axes.images} == {(0, 1)}


def test_all_panels_are_fit_for_print(found):
    for figure in (
        panels.pairs(found),
        panels.improvements(found),
        panels.latent_lines(found, resolution=12),
        panels.sequence(found, found.most_alike(3)),
    ):
        figure.draw_without_rendering()
        assert complaints(figure) == []


# --- the ranking of two models


@pytest.fixture(scope="module")
def logistic(found, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOLIB_DERIVED", str(tmp_path_factory.mktemp("derived")))
        yield fit_logistic(found.models[0].data)


@pytest.fixture(scope="module")
def ranking(found, logistic):
    return rankings.measure(found.models, logistic, n_pairs=8, threshold=0.01, seed=0, settings={})


def made_up(better, comparable, *, distance=None):
    values = {"entropy": better, "distance": better if distance is None else distance}
    made = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in values.items()}
    return rankings.Ranking(made, torch.as_tensor(comparable), 0)


def test_quality_is_entropy_and_distance_along_the_line(found, logistic):
    g = found.models[0]
    start, end = g.test_latents[:3], g.test_latents[3:6]
    values = rankings.quality(g, logistic, start, end)
    t = torch.linspace(0, 1, rankings.N_IMAGES)[:, None]
    images = g.vae.mean(start[1] + t * (end[1] - start[1]))
    p = logistic.probabilities(images).double()
    assert float(values["entropy"][1]) == pytest.approx(float(-(p * p.log2()).sum(-1).mean()), rel=1e-4)
    nearest = (images[:, None] - g.data.train_images[None]).norm(dim=-1).amin(-1).mean()
    assert float(values["distance"][1]) == pytest.approx(float(nearest), rel=1e-3)


def test_a_ranking_is_of_the_pairs_of_the_comparison(found, logistic, ranking):
    first, second = generators.test_pairs(found.models[0].data, 8, seed=0)
    sides = [(g.metric, g.test_latents[first], g.test_latents[second]) for g in found.models]
    assert torch.equal(ranking.comparable, compare_models(*sides, threshold=0.01).comparable)
    a, b = (rankings.quality(g, logistic, start, end) for g, (_, start, end) in zip(found.models, sides, strict=True))
    for name in rankings.MEASURES:
        torch.testing.assert_close(ranking.better[name], b[name] - a[name])


def test_agreement_is_that_of_samples_with_replacement():
    # a sample of three is won by the second model where it has its one large pair: 1 - (3/4)^3
    found = made_up([1.0, 1.0, 1.0, -9.0], [True] * 4)
    wins = 0.75**3
    whole, comparable = found.agreement["entropy"]
    assert whole == comparable == pytest.approx(100 * (wins**2 + (1 - wins) ** 2), abs=3)
    assert found.winner("entropy") == "VAE2"
    assert found.share_of_wins["entropy"] == (75, 75)


@pytest.fixture
def mixed(generator):
    """Pairs of which one half is won clearly, and the other by chance."""
    clear = 5 + 0.5 * torch.randn(100, generator=generator)
    chance = 8 * torch.randn(100, generator=generator)
    return torch.cat([clear, chance - chance.mean()])


def test_comparable_pairs_are_fairer_where_they_agree(mixed):
    clear = torch.arange(200) < 100
    fair, unfair = made_up(mixed, clear), made_up(mixed, ~clear)
    assert fair.claims[0]["verdict"] == "supported"
    assert fair.said.startswith("By both measures the ranking depends less")
    assert unfair.claims[0]["verdict"] == "not reproduced"
    assert unfair.said.startswith("By both measures the ranking depends more")
    certain = made_up(mixed.abs(), clear)
    assert certain.said.startswith("Samples of all pairs agree almost always")
    one = made_up(mixed, clear, distance=torch.ones(200))  # nothing to gain
    assert one.claims[0]["verdict"] == "not reproduced"
    assert one.said == "On comparable pairs the ranking depends on the draw less by the entropy"
    assert f"{fair.agreement['distance'][1]:.0f} % where pairs are comparable" in fair.agreements_in_words
    gain, low, high = fair.difference["entropy"]
    assert low < gain < high


def test_too_few_comparable_pairs_decide_nothing():
    found = made_up(list(range(-5, 15)), [True] * 2 + [False] * 18)
    assert found.claims[0]["verdict"] == "not testable here"
    samples = [row["quantity"] for row in found.numbers if row["quantity"].startswith("samples")]
    assert len(samples) == len(rankings.MEASURES)  # of all pairs, and none of comparable ones
    assert all(quantity.endswith("of all pairs") for quantity in samples)
    assert "By neither measure" in found.said
    assert "nan" not in found.agreements_in_words


def test_the_ranking_panel_holds_every_pair(mixed):
    clear = torch.arange(200) < 100
    found = made_up(mixed, clear)
    figure = panels.ranking(found)
    figure.draw_without_rendering()
    assert complaints(figure) == []
    for panel in figure.axes[:2]:
        counts = [sum(bar.get_height() for bar in container) for container in panel.containers]
        assert counts == [200, 100]
    heights = [bar.get_height() for container in figure.axes[2].containers for bar in container]
    assert heights == pytest.approx([value for name in rankings.MEASURES for value in found.agreement[name]])
