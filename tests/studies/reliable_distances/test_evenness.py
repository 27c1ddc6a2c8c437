"""evenness: the coefficient of variation of a decoder's steps."""

import math

import pytest
import torch

from geolib import PullbackMetric, geodesic
from geolib.companion.studies import evenness
from geolib.companion.studies.evidence import Verdict
from geolib.curves import straight

pytestmark = pytest.mark.smoke


def squared(z):
    """A parabola's arm: its speed grows along the first axis."""
    return torch.stack([z[..., 0].square(), torch.zeros_like(z[..., 0])], dim=-1)


def exponential(z):
    """The plane in logarithmic polar coordinates: geodesics are known, and lines in latents are spirals."""
    radius = z[..., 0].exp()
    return torch.stack([radius * z[..., 1].cos(), radius * z[..., 1].sin()], dim=-1)


def test_equal_steps_have_no_variation():
    z = torch.rand(3, 4, 2)
    points = straight(z[:, 0], z[:, 1], 10)
    torch.testing.assert_close(evenness.variation(lambda z: 3 * z, points), torch.zeros(3).double(), atol=1e-5, rtol=0)


def test_the_variation_of_known_steps():
    points = straight(torch.zeros(1, 2), torch.tensor([[2.0, 5.0]]), 2)
    torch.testing.assert_close(evenness.step_lengths(squared, points), torch.tensor([[1.0, 3.0]]))
    # steps 1 and 3: mean 2, deviation 1
    assert float(evenness.variation(squared, points)) == pytest.approx(0.5)


def test_one_step_that_makes_the_whole_change():
    points = torch.zeros(17, 1, dtype=torch.float64)
    points[-1] = 1.0
    assert float(evenness.variation(lambda z: z, points)) == pytest.approx(math.sqrt(15))


@pytest.fixture(scope="module")
def found():
    start = torch.tensor([[0.0, 0.0], [0.5, -0.3], [1.0, 0.0]], dtype=torch.float64)
    end = torch.tensor([[1.0, 1.0], [-0.5, 1.0], [-0.2, 0.2]], dtype=torch.float64)
    return evenness.measure(exponential, geodesic(PullbackMetric(exponential), start, end))


def test_a_geodesic_is_even_where_a_line_is_not(found):
    assert float(found.geodesic_variation.max()) < 0.01
    assert float(found.line_variation.min()) > 0.1
    assert found.line.shape == found.geodesic.shape == (3, evenness.STEPS + 1, 2)
    torch.testing.assert_close(found.line[:, [0, -1]], found.geodesic[:, [0, -1]])
    # the speed along the last line is e^(a t): its deviation over its mean is known
    a = 1.2
    expected = math.sqrt(a / 2 * (math.exp(2 * a) - 1) / (math.exp(a) - 1) ** 2 - 1)
    assert float(found.line_variation[2]) == pytest.approx(expected, rel=0.01)


def test_means_have_intervals(found):
    mean, half = found.mean("line")
    assert mean == pytest.approx(float(found.line_variation.mean()))
    assert half > 0
    assert [row["value"] for row in found.numbers("CH-1", "plane")] == [found.words("line"), found.words("geodesic")]


@pytest.mark.parametrize(
    ("line", "geodesic", "verdict"),
    [
        ([0.3, 0.4, 0.5], [0.01, 0.02, 0.03], Verdict.SUPPORTED),
        ([0.05, 0.4, 0.1], [0.01, 0.02, 0.03], Verdict.NOT_REPRODUCED),
        ([0.3, 0.4, 0.5], [0.01, 0.2, 0.03], Verdict.NOT_REPRODUCED),
        ([0.05, 0.06, 0.07], [0.01, 0.02, 0.03], Verdict.CONTRADICTED),
        ([0.3, 0.4, 0.5], [0.25, 0.3, 0.35], Verdict.CONTRADICTED),
        ([0.3], [0.01], Verdict.NOT_TESTABLE),
    ],
)
def test_the_claim_is_decided_by_both_intervals(found, line, geodesic, verdict):
    made = evenness.Evenness(found.line, found.geodesic, torch.tensor(line), torch.tensor(geodesic))
    decided = made.decide(evenness.evenly("CH-1", "plane"))
    assert decided["verdict"] == verdict
    assert decided["claim"].startswith("plane: equal steps")
