"""The study of global distances: what it says for sure, what it leaves open, and that its panels draw."""

import dataclasses

import pytest
import torch
from problems import WALL, sphere

from geolib import PullbackMetric, geodesic
from geolib.companion.figures.shortest_curves import global_distances as panels
from geolib.companion.studies.shortest_curves import global_distances as study

pytestmark = pytest.mark.slow

DTYPE = torch.float64
SMALL = {"resolution": 192, "reach": 12}


def two_ridges():
    """Ridges in sigma across x = 0 at y = 0 and 0.9. From a line at y = 0.3 a curve ends in the high pass between them;
    shorter is the way around, below both."""

    def std(z):
        x, y = z.split(1, dim=-1)
        height = 2 * torch.exp(-((x / 0.3) ** 2) / 2) * sum(torch.exp(-(((y - at) / 0.3) ** 2) / 2) for at in (0, 0.9))
        return torch.cat([height, torch.zeros_like(height)], dim=-1)

    return PullbackMetric(lambda z: z * 1.0, std)


def lattice(n=15, half=1.6):
    """Latents that a graph can be built on, ``(n^2, 2)``."""
    t = torch.linspace(-half, half, n, dtype=DTYPE)
    return torch.cartesian_prod(t, t)


def of_ridges(**size):
    """The pair that the pass is on the line of, and one beside both ridges."""
    start = torch.tensor([[-1.0, 0.3], [-1.0, 0.3]], dtype=DTYPE)
    end = torch.tensor([[1.0, 0.3], [-1.0, -1.0]], dtype=DTYPE)
    lower, upper = study.box(lattice())
    options = {"latents": lattice(), "lower": lower, "upper": upper, **SMALL, **size}
    return study.compare(two_ridges(), start, end, **options)


@pytest.fixture(scope="module")
def ridges():
    return of_ridges()


@pytest.fixture(scope="module")
def round_sphere():
    at = torch.rand(2, 12, 2, generator=torch.Generator().manual_seed(0), dtype=DTYPE)
    start, end = at * torch.tensor([1.2, 1.5], dtype=DTYPE) + torch.tensor([1.0, -0.7], dtype=DTYPE)
    lower, upper = torch.tensor([[0.4, -1.4], [2.8, 1.4]], dtype=DTYPE)
    latents = torch.cat([start, end])
    return study.compare(sphere().metric, start, end, latents=latents, lower=lower, upper=upper, **SMALL)


def test_a_local_minimum_that_is_not_global_is_found(ridges):
    assert ridges.longer("line").tolist() == [True, False]
    assert ridges.as_short("line").tolist() == [False, True]
    assert ridges.excess("line")[0] > 0.1
    assert ridges.worst("line") == 0
    assert ridges.largest_excess("line") == float(ridges.excess("line")[0])
    # the graph leads around both ridges, and the shorter of the two is the graph's
    for init in ("graph", "best"):
        assert ridges.longer(init).tolist() == [False, False]
        assert ridges.largest_excess(init) < 1e-3
    assert ridges.bounded.all()
    assert "line: 1 surely, 0 undecided; 0 curves did not converge" in ridges.report()


def test_the_global_path_is_the_one_around(ridges):
    middle = ridges.polished.points.shape[1] // 2
    assert ridges.polished.points[0, middle, 1] < -0.3
    assert ridges.local["line"].points[0, middle, 1] > 0.3
    for curves in (ridges.polished, *ridges.local.values()):
        torch.testing.assert_close(curves.points[:, 0], ridges.start)
        torch.testing.assert_close(curves.points[:, -1], ridges.end)
    assert (ridges.line_length >= ridges.local["line"].length).all()
    assert ridges.apart(0, "line") > 0.3
    assert ridges.ways(0, "line").startswith("take different ways, up to ")
    assert ridges.apart(1, "line") < 0.01
    assert ridges.ways(1, "line").startswith("run side by side, nowhere more than ")


def test_on_a_sphere_every_local_minimum_is_global(round_sphere):
    true = sphere().distance(round_sphere.start, round_sphere.end)
    assert round_sphere.bounded.all()
    assert (round_sphere.at_least <= true * (1 + 1e-6)).all()
    assert (round_sphere.shortest >= true * (1 - 1e-6)).all()
    for init in study.STARTS:
        assert not round_sphere.longer(init).any()
        # a tenth is far beyond what so small a grid may be off
        assert round_sphere.as_short(init, by=0.1).all()


def test_the_verdicts_are_one_each_for_every_curve_that_converged(ridges, round_sphere):
    for found in (ridges, round_sphere):
        for init in study.STARTS:
            for by in (1e-4, 1e-3, 0.01, 0.1):
                verdicts = torch.stack([f(init, by) for f in (found.longer, found.as_short, found.undecided)])
                assert torch.equal(verdicts.sum(0), found.local[init].converged.long())
            assert (found.possible_excess(init) >= found.excess(init)).all()
            assert (found.excess(init) >= 0).all()


@pytest.mark.slow
def test_a_coarse_grid_leaves_pairs_undecided_and_finds_the_longer_one_all_the_same():
    found = of_ridges(resolution=16, reach=4)
    assert found.undecided("line").tolist() == [False, True]
    assert found.longer("line")[0]


def test_an_error_that_is_no_bound_decides_nothing(ridges):
    for name in ("contracting", "inside"):
        flags = dataclasses.replace(ridges.distances, **{name: torch.zeros(2, dtype=torch.bool)})
        found = dataclasses.replace(ridges, distances=flags)
        assert found.possible_excess("line").isinf().all()
        assert found.longer("line").tolist() == [True, False]
        assert found.undecided("line").tolist() == [False, True]


def test_a_curve_that_did_not_converge_is_no_local_minimum(ridges):
    loose = dataclasses.replace(ridges.local["line"], converged=torch.tensor([False, True]))
    found = dataclasses.replace(ridges, local={**ridges.local, "line": loose})
    assert not any(f("line")[0] for f in (found.longer, found.as_short, found.undecided))
    assert found.worst("line") == 1
    assert "line: 0 surely, 0 undecided; 1 curves did not converge" in found.report()
    none = dataclasses.replace(loose, converged=torch.zeros(2, dtype=torch.bool))
    assert dataclasses.replace(ridges, local={"line": none}).largest_excess("line") == 0


def test_numbers_words_and_verdict_follow_from_the_pairs(ridges, round_sphere):
    values = {row["quantity"]: row["value"] for row in ridges.numbers}
    assert values["pairs whose local minimum is over 1 % longer than the global distance, init line"] == 50
    assert values["pairs whose local minimum is over 1 % longer than the global distance, init best"] == 0
    assert (
        values["largest excess of a local minimum over the global distance, init line"]
        == 100 * ridges.excess("line")[0]
    )
    assert (ridges.count("line"), ridges.graph_against_line) == ("1 of 2", "fewer")
    assert (round_sphere.count("line"), round_sphere.graph_against_line) == ("0 of 12", "as many")
    swapped = {"line": ridges.local["graph"], "graph": ridges.local["line"]}
    assert dataclasses.replace(ridges, local=swapped).graph_against_line == "more"


def test_undecided_pairs_leave_the_claim_open(ridges):
    def verdict(excess, error):
        """Of two pairs at distance 1, whose curves from the line are longer by ``excess``."""
        one = torch.ones(2, dtype=DTYPE)
        best = dataclasses.replace(ridges.polished, length=one, converged=torch.ones(2, dtype=torch.bool))
        line = dataclasses.replace(best, length=one + torch.tensor([excess, 0.0], dtype=DTYPE))
        grid = dataclasses.replace(
            ridges.distances, distance=one, error=error * one, contracting=best.converged, inside=best.converged
        )
        (claim,) = dataclasses.replace(ridges, polished=best, local={"line": line}, distances=grid).claims
        return claim["verdict"]

    assert verdict(0.02, error=0.001) == "supported"
    assert verdict(0.02, error=0.1) == "supported"
    assert verdict(0.005, error=0.001) == "contradicted"
    assert verdict(0.005, error=0.1) == "not testable here"


def test_best_is_what_geodesic_calls_best(ridges):
    best = geodesic(two_ridges(), ridges.start, ridges.end, init="best", latents=lattice())
    torch.testing.assert_close(ridges.local["best"].length, best.length, rtol=1e-6, atol=0)
    assert torch.equal(ridges.local["best"].converged, best.converged)


def test_pairs_share_their_starts_and_never_join_a_point_to_itself():
    latents = torch.arange(40.0).reshape(20, 2)
    start, end = study.pairs(latents, 5, 19, seed=3)
    assert start.shape == end.shape == (95, 2)
    assert len(start.unique(dim=0)) == 5
    assert (start != end).all()
    for k in range(5):
        assert len(end[19 * k : 19 * (k + 1)].unique(dim=0)) == 19
    again = study.pairs(latents, 5, 19, seed=3)
    assert torch.equal(torch.stack(again), torch.stack([start, end]))
    assert not torch.equal(study.pairs(latents, 5, 19, seed=4)[0], start)
    with pytest.raises(ValueError, match="n_starts, n_ends: got 5 and 20, expected at most 20 and 19"):
        study.pairs(latents, 5, 20, seed=3)


def test_the_box_is_a_square_with_a_margin():
    lower, upper = study.box(WALL)
    torch.testing.assert_close(lower, torch.tensor([-1.2, -1.2], dtype=DTYPE))
    torch.testing.assert_close(upper, torch.tensor([1.2, 1.2], dtype=DTYPE))


@pytest.mark.usefixtures("style")
def test_the_field_is_drawn_with_three_curves_and_their_lengths(ridges):
    labels = torch.arange(len(lattice())) % 3
    figure = panels.distance_field(of_ridges(resolution=48, reach=4), 0, lattice(), labels, resolution=16)
    figure.draw_without_rendering()
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == [
        f"straight line: {ridges.line_length[0]:.1f}",
        f"local minimum from the line: {ridges.local['line'].length[0]:.1f} (+{100 * ridges.excess('line')[0]:.1f} %)",
        f"global path: {ridges.polished.length[0]:.1f}",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("style")
@pytest.mark.parametrize("case", ["ridges", "round_sphere", "none converged"])
def test_the_shares_are_drawn_whatever_was_found(case, ridges, round_sphere):
    found = {"ridges": ridges, "round_sphere": round_sphere}.get(case, ridges)
    if case == "none converged":
        lost = {k: dataclasses.replace(c, converged=torch.zeros(2, dtype=torch.bool)) for k, c in found.local.items()}
        found = dataclasses.replace(found, local=lost)
    figure = panels.local_minima(found)
    figure.draw_without_rendering()
    shares = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    longer = 1 if case == "ridges" else 0
    assert shares == [f"line: {longer}", "graph: 0", "best: 0", "at most"]
