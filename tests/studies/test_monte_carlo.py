"""monte_carlo: Algorithm 1's numbers and verdicts, the words a reader is told, the panels of notebook 04."""

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from project import small_generator
from scipy import stats

import geolib
from geolib.companion.figures import style
from geolib.companion.figures.linear_interpolation import monte_carlo as panels
from geolib.companion.figures.print_check import complaints
from geolib.companion.studies.linear_interpolation import monte_carlo as study
from geolib.companion.studies.linear_interpolation import worst_case
from geolib.evaluation import RelativeImprovement

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("style")]

SETTINGS = {"n_samples": 12, "step_size": 1.0, "seed": 0}


@pytest.fixture(scope="module")
def g(tmp_path_factory):
    return small_generator(tmp_path_factory)


@pytest.fixture(scope="module")
def relative_improvement():
    """In fewer steps than a geodesic takes, which is not what is asked of them here."""
    return functools.partial(geolib.relative_improvement, max_steps=10)


@pytest.fixture(scope="module")
def mc(g, relative_improvement):
    return relative_improvement(g.metric, **SETTINGS)


@pytest.fixture(scope="module")
def found(g, mc, relative_improvement):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "relative_improvement", relative_improvement)
        return study.measure(g, mc, [g], **SETTINGS)


def lines(found, values, *, start=None):
    """The same with these improvements in per cent, and lines of length 0 at ``start (n, 2)``."""
    values = torch.as_tensor(values, dtype=torch.float64)
    start = torch.zeros(len(values), 2) if start is None else start
    curves = dataclasses.replace(found.mc.geodesic, length=1 - values / 100, line_length=torch.ones_like(values))
    return study.MonteCarlo(found.g, RelativeImprovement(start, start, curves), [])


def verdicts(found):
    return [claim["verdict"] for claim in found.claims]


def test_retrained_models_get_the_same_draws(found, mc):
    (again,) = found.retrained
    torch.testing.assert_close(again.improvement, mc.improvement)
    assert found.mc is mc
    assert found.means == [100 * mc.mean] * 2


def test_numbers_are_those_of_the_lines(found, mc):
    values = {row["quantity"]: row["value"] for row in found.numbers}
    improvement = 100 * mc.improvement.double()
    assert values == pytest.approx(
        {
            "mean relative improvement": float(improvement.mean()),
            "standard deviation of the improvements": float(improvement.std()),
            "largest improvement": float(improvement.max()),
            "curves whose solver converged": 100 * float(mc.geodesic.converged.double().mean()),
            "median relative improvement": float(np.median(improvement)),
            "smallest mean improvement over retrained models": float(improvement.mean()),
            "largest mean improvement over retrained models": float(improvement.mean()),
            "mean improvement: standard deviation between models": 0.0,
            "mean improvement: standard error within a model": float(improvement.std()) / math.sqrt(len(improvement)),
        },
        rel=1e-5,
    )
    low, high = mc.interval
    assert f"95 % interval over draws {100 * low:.2f} to {100 * high:.2f} %" in found.numbers[0]["note"]
    alone = study.MonteCarlo(found.g, mc, [])
    assert [row["id"] for row in alone.numbers] == ["MB-2"] * 4 + ["MB-4"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # a mean of 10.2 % in a narrow interval; a wide one; all alike; nearly nothing but one
        ([9.2, 11.2] * 50, ["supported", "supported", "contradicted"]),
        ([0.5] * 60 + [25.0] * 40, ["supported", "contradicted", "supported"]),
        ([2.0, 2.1] * 50, ["not reproduced", "supported", "contradicted"]),
        ([0.1] * 99 + [30.0], ["not reproduced", "contradicted", "supported"]),
        ([20.0, 21.0] * 50, ["not reproduced", "supported", "contradicted"]),
    ],
)
def test_verdicts_follow_the_numbers(found, values, expected):
    assert verdicts(lines(found, values)) == expected


def test_one_line_decides_nothing_of_spread(found):
    """Its standard deviation is not a number."""
    alone = lines(found, [3.0])
    assert math.isnan(alone.mc.std)
    assert verdicts(alone) == ["not testable here", "supported", "not testable here"]


def test_a_tenth_of_the_lines_can_hold_most_of_the_improvement(found):
    half = lines(found, [1.0] * 90 + [9.0] * 10)
    assert half.share_of_improvement_from_the_top_tenth == pytest.approx(50)
    everything = lines(found, [0.0] * 18 + [5.0, 15.0])
    assert everything.share_of_improvement_from_the_top_tenth == pytest.approx(100)


def test_the_place_is_told_by_the_distance_to_the_data(found):
    data = found.g.train_latents
    radius = float(data.norm(dim=-1).max())
    near, away = data[:20] + 1e-4 * radius, torch.tensor([[3 * radius, 0.0]])
    values = [0.0] * 18 + [5.0, 6.0]

    def place(others, best):
        there = lines(found, values, start=torch.cat([others[:18], best.expand(2, 2)]))
        return there.place, there.ratio_of_distance

    far_words, ratio = place(near, away)
    assert ratio > study.SPARSE
    rest = "times the distance of the others from the nearest encoded image"
    assert far_words == f"where data are sparse, at {ratio:.1f} {rest}"
    near_words, ratio = place(away.expand(18, 2), near[:1])
    assert ratio < 1 / study.SPARSE
    assert near_words == f"where data are dense, at 0.0 {rest}"
    same_words, ratio = place(away.expand(18, 2), 1.1 * away)
    assert 1 < ratio < study.SPARSE
    assert same_words == f"where data are about as dense as elsewhere, at {ratio:.1f} {rest}"


def test_the_magnification_factor_is_compared_at_the_middles(found):
    points = torch.stack([torch.linspace(-2, 2, 20), torch.zeros(20)], dim=-1)
    volume = geolib.magnification_factor(found.g.metric(points)).double()
    there = lines(found, [0.0] * 18 + [5.0, 6.0], start=points)
    expected = float(volume[18:].quantile(0.5) / volume[:18].quantile(0.5))
    assert there.ratio_of_magnification == pytest.approx(expected, rel=1e-5)


def test_the_spread_over_models_is_told_where_there_are_several(found):
    alone = study.MonteCarlo(found.g, found.mc, [])
    assert alone.spread_of_the_means == "One trained model does not show how much the mean depends on the training."
    low, middle, high = (lines(found, [mean - 1, mean + 1]).mc for mean in (2.0, 2.5, 3.25))
    several = study.MonteCarlo(found.g, middle, [high, low])
    assert several.spread_of_the_means == "Over 3 trained models the mean lies between 2.00 and 3.25 %."


# --- panels


def fit(figure):
    figure.draw_without_rendering()
    assert complaints(figure) == []
    return figure


def test_the_map_is_readable(found):
    figure = fit(panels.improvement_map(found, resolution=12))
    axes, ground, lines = figure.axes
    assert figure.get_figwidth() == style.COLUMN
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$z_1$", "$z_2$")
    assert ground.get_xlabel() == r"$\log\sqrt{\det M_z}$"
    assert lines.get_xlabel() == "relative improvement [%]"
    assert sorted(text.get_text() for text in axes.texts) == ["2", "4", "5", "7"]
    (segments,) = axes.collections
    np.testing.assert_allclose(segments.get_array(), np.sort(100 * found.mc.improvement.numpy()))
    # the range of the ground is that of its values at the data, not at the walls
    low, high = axes.images[0].get_clim()
    at_data = geolib.magnification_factor(found.g.metric(found.g.test_latents)).log()
    share = float(((at_data >= low) & (at_data <= high)).double().mean())
    assert share == pytest.approx(0.98, abs=0.01)


def counts(figure):
    return [bar.get_height() for bar in figure.axes[0].patches]


@pytest.mark.parametrize(
    ("mean", "n"),
    [(0.01, 10), (1.6, 1000), (2.7, 60), (5.0, 10), (7.5, 1000), (9.5, 10), (10.2, 60), (11.0, 10), (30.0, 60)],
)
def test_the_histogram_can_be_read_whatever_the_mean(found, mean, n):
    values = mean * np.linspace(0, 2, n)
    there = lines(found, values)
    figure = fit(panels.histogram(there))
    left, right = figure.axes
    assert sum(counts(figure)) == n
    assert counts(figure)[-1] == (100 * there.mc.improvement >= 12).sum()
    assert left.get_yscale() == "log"
    assert left.get_xlabel() == "relative improvement [%]"
    assert left.get_ylabel() == "number of lines"
    assert right.get_xlabel() == "mean improvement [%]"
    said = {text.get_text() for text in left.texts}
    assert said == {f"our mean\n{values.mean():.2f} %", "the paper's\nmean 10.20 %"}


def test_bars_stand_where_their_improvements_are(found):
    figure = fit(panels.histogram(lines(found, [0.0, 0.4, 0.6, 3.2, 11.9, 12.1, 31.0])))
    drawn = {round(bar.get_x(), 6): bar.get_height() for bar in figure.axes[0].patches if bar.get_height() > 0}
    assert drawn == {0.0: 2, 0.5: 1, 3.0: 1, 11.5: 1, 12.5: 2}
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()][-1] == "≥ 12"


def test_every_trained_model_has_its_mean_and_interval(found):
    figure = fit(panels.histogram(found))
    panel = figure.axes[1]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["1", "2"]
    low, high = found.mc.interval
    intervals = [line.get_xdata() for line in panel.lines if len(line.get_xdata()) == 2 and line.get_ydata()[1] == 1]
    assert any(list(interval) == pytest.approx([100 * low, 100 * high]) for interval in intervals)
    dots = [line.get_xdata()[0] for line in panel.lines if line.get_marker() == "o"]
    assert dots == pytest.approx(found.means)
    assert panel.get_xlim()[1] > study.PAPER_MEAN


# --- the worst case


@pytest.fixture(scope="module")
def worst(g, mc, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOLIB_DERIVED", str(tmp_path_factory.mktemp("derived")))
        patch.setattr(worst_case, "STEPS", (0.5, 1.0))
        yield worst_case.measure(g, mc.start[:5], step_size=0.8, seed=3, settings={})


def made_up(v_max, v_min, other):
    """Improvements in per cent at one step size, and a tenth of them at all smaller ones."""
    values = {"v_max": v_max, "v_min": v_min, "random": other}
    rows = {name: torch.tensor(values[name]) / 100 for name in worst_case.DIRECTIONS}
    grown = {name: torch.stack([0.1 * step * row for step in worst_case.STEPS]) for name, row in rows.items()}
    for name, row in rows.items():
        grown[name][worst_case.STEPS.index(1.0)] = row
    lengths = {name: torch.ones_like(row) for name, row in grown.items()}
    converged = {name: [len(v_max)] * len(worst_case.STEPS) for name in worst_case.DIRECTIONS}
    return worst_case.WorstCase(grown, lengths, converged, 1.0)


def test_directions_are_of_unit_length_towards_the_origin_and_extremal(g):
    start = torch.randn(40, 2, generator=torch.Generator().manual_seed(2))
    directions = worst_case.inwards(g, start, seed=1)
    M = g.metric(start)
    rates = {name: torch.einsum("ni,nij,nj->n", v, M, v) for name, v in directions.items()}
    for v in directions.values():
        torch.testing.assert_close(v.norm(dim=-1), torch.ones(40))
        assert ((start * v).sum(-1) <= 0).all()
    assert (rates["v_min"] <= rates["random"] * 1.0001).all()
    assert (rates["random"] <= rates["v_max"] * 1.0001).all()
    angles = torch.atan2(*directions["random"].T)
    assert angles.std() > 1


def test_improvements_are_those_of_the_same_points(worst, g, mc):
    start, directions = mc.start[:5], worst_case.inwards(g, mc.start[:5], seed=3)
    torch.testing.assert_close(start + directions["v_max"], mc.end[:5])  # as Algorithm 1 steps
    for name in worst_case.DIRECTIONS:
        assert worst.improvement[name].shape == (2, 5)
        curves = geolib.geodesic(g.metric, start, start + 0.4 * directions[name])
        torch.testing.assert_close(worst.improvement[name][0].float(), curves.improvement, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(worst.length[name][0].float(), curves.line_length)


@pytest.mark.parametrize(
    ("v_min", "other", "verdict"),
    [
        ([1.0, 1.1, 0.9, 1.0], [1.5, 1.6, 1.4, 1.5], "supported"),
        ([1.0, 1.1, 0.9, 1.0], [2.5, 2.6, 2.4, 2.5], "contradicted"),
        ([3.0, 1.1, 0.9, 1.0], [1.5, 1.6, 1.4, 1.5], "contradicted"),  # more on average, but maybe by chance
    ],
)
def test_the_worst_case_is_decided_in_pairs(v_min, other, verdict):
    found = made_up([2.0, 2.1, 1.9, 2.0], v_min, other)
    assert [claim["verdict"] for claim in found.claims] == [verdict]
    difference = 2 + np.array([0, 0.1, -0.1, 0]) - v_min
    values = {row["quantity"]: row["value"] for row in found.numbers}
    assert values["curves in three directions whose solver converged"] == 100
    assert values["mean improvement along the maximal eigenvector"] == pytest.approx(2, abs=1e-5)
    mean, low, high = found.difference("v_min")
    half = stats.t.ppf(0.975, 3) * difference.std(ddof=1) / 2
    assert (mean, low, high) == pytest.approx(
        (difference.mean(), difference.mean() - half, difference.mean() + half), abs=1e-5
    )


def test_the_worst_direction_is_named():
    assert made_up([1.0, 1.0], [2.0, 2.5], [0.5, 0.5]).which_is_worst == "minimal eigenvector"
    assert made_up([3.0, 1.0], [2.0, 1.5], [0.5, 0.5]).which_is_worst == "maximal eigenvector"


def test_the_exponent_is_that_of_the_largest_over_the_smallest_step():
    found = made_up([1.0, 2.0], [1.0, 1.0], [1.0, 1.0])
    squares = torch.stack([step**2 * torch.tensor([0.01, 0.02]) for step in worst_case.STEPS])
    found = dataclasses.replace(found, improvement=dict.fromkeys(worst_case.DIRECTIONS, squares))
    assert found.exponent == pytest.approx(2, rel=1e-4)


def test_the_worst_case_panel_shows_means_and_differences():
    found = made_up([2.0, 2.1, 1.9, 2.0], [1.0, 1.1, 0.9, 1.0], [1.5, 1.6, 1.4, 1.5])
    figure = panels.worst_case(found)
    figure.draw_without_rendering()
    left, right = figure.axes
    for container, name in zip(left.containers, worst_case.DIRECTIONS, strict=True):
        np.testing.assert_allclose(container.lines[0].get_ydata(), found.mean(name)[:, 0])
    dots = [line.get_xdata()[0] for line in right.lines if line.get_marker() not in ("None", None, "")]
    assert dots == pytest.approx([found.difference(name)[0] for name in ("v_min", "random")])
    assert complaints(figure) == []
