"""Where the data lie, and the share of a curve that lies there."""

import pytest
import torch

from geolib.companion.studies.generative_models.support import OffTheData, evenly, two_sample_test

pytestmark = pytest.mark.smoke


def test_off_the_data_is_farther_than_nearly_all_test_latents_are():
    train = torch.stack([torch.linspace(0, 1, 101), torch.zeros(101)], dim=-1)
    test = train[:100] + torch.tensor([0.0, 0.01])
    off = OffTheData(train, test)
    assert off.limit == pytest.approx(0.01, rel=1e-4)
    asked = torch.tensor([[0.5, 0.009], [0.5, 0.011], [1.02, 0.0], [1.005, 0.0]])
    assert off(asked).tolist() == [False, True, True, False]
    assert off(asked.reshape(2, 2, 2)).shape == (2, 2)


def test_the_share_of_length_off_the_data():
    train = torch.cartesian_prod(torch.linspace(-1, 1, 81), torch.linspace(-1, 1, 81))
    off = OffTheData(train, train + 0.012)
    # one half of the way lies inside the square; points crowd there, which the share must not see
    x = torch.cat([torch.linspace(0, 1, 200)[:-1], torch.linspace(1, 2, 58)])
    crowded = torch.stack([x, torch.zeros_like(x)], dim=-1)[None]
    even = evenly(crowded)
    assert even.shape == crowded.shape
    steps = even.diff(dim=1).norm(dim=-1)
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-3, atol=0)
    assert float(off.shares(even)) == pytest.approx(0.5, abs=0.02)


def test_what_can_and_what_cannot_be_told_apart(generator):
    a, b = torch.randn(2, 400, 5, generator=generator)
    same, apart, copied = (two_sample_test(a, other) for other in (b, b + 50, a.clone()))
    assert same.share == pytest.approx(0.5, abs=0.06)
    assert (apart.share, apart.p, apart.n) == (1, 0.001, 400)
    assert (copied.share, copied.p) == (0, 1)  # each has its copy among the others
    assert [check.passes for check in (same, apart, copied)] == [True, False, True]
    assert apart.outcome == "told apart from real images at the 5 % level, p = 0.001, 400 images of each kind"
    assert same.outcome.startswith("not told apart from real images at the 5 % level")


def test_the_level_is_how_often_equals_are_told_apart(generator):
    samples = torch.randn(80, 2, 30, 3, generator=generator)
    failed = sum(not two_sample_test(*pair).passes for pair in samples)
    assert failed <= 11  # 4 expected; the chance of more is below one in a thousand
    assert not any(two_sample_test(a, b + 2).passes for a, b in samples[:10])
