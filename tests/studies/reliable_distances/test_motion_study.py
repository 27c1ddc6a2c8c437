"""The study of notebook 14: its pairs, numbers and verdicts on a small model, and its panels."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from geolib import PullbackMetric
from geolib.companion.data import motion as data
from geolib.companion.figures.print_check import complaints
from geolib.companion.figures.reliable_distances import motion as panels
from geolib.companion.models.generators import mean_generator
from geolib.companion.models.networks.iwae import IWAE, IWAEConfig
from geolib.companion.studies import evenness, magnification
from geolib.companion.studies.evenness import Evenness
from geolib.companion.studies.evidence import Verdict
from geolib.companion.studies.reliable_distances import motion as study

pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def poses():
    return data.stand_in()


@pytest.fixture(scope="module")
def found(poses):
    """The study of a decoder that is not trained: what it shows is not asked here."""
    return study.measure(model_of(poses, 1), n_pairs=9, resolution=12, seed=0)


def model_of(poses, seed):
    config = IWAEConfig(data_dim=3 * len(data.JOINTS), widths=(16, 8))
    model = IWAE(config, generator=torch.Generator().manual_seed(seed)).eval().requires_grad_(False)
    return mean_generator(poses, model)


def test_a_third_of_the_pairs_is_of_each_kind(poses):
    chosen = study.pairs(poses, 60, seed=0)
    assert [int((chosen.kind == kind).sum()) for kind in range(3)] == [20, 20, 20]
    walks = [poses.test_labels[index] == data.WALKING for index in (chosen.first, chosen.second)]
    for kind, expected in enumerate([(True, True), (False, False), (True, False)]):
        assert all(bool((walk[chosen.kind == kind] == want).all()) for walk, want in zip(walks, expected, strict=True))
    assert bool((chosen.first != chosen.second).all())
    again, other = study.pairs(poses, 60, seed=0), study.pairs(poses, 60, seed=1)
    assert torch.equal(chosen.first, again.first)
    assert not torch.equal(chosen.first, other.first)


def test_no_pose_is_joined_with_itself(poses):
    few = dataclasses.replace(poses, test_labels=torch.tensor([0, 0, 1, 2]))
    for seed in range(5):
        chosen = study.pairs(few, 12, seed=seed)
        assert bool((chosen.first != chosen.second).all())


def test_too_few_pairs(poses):
    with pytest.raises(ValueError, match="n_pairs: got 2, expected at least 3"):
        study.pairs(poses, 2, seed=0)


def test_changes_are_root_mean_squares_over_joints():
    still = torch.zeros(3, 4, 3)
    still[1, :, 0] = 2.0  # all joints by 2
    still[2] = still[1]
    still[2, 0, 1] = 4.0  # one of four by 4
    torch.testing.assert_close(study.changes(still), torch.tensor([2.0, 2.0]))


def test_the_least_even_pair(found):
    variation = found.curves.line_variation
    assert float(variation[found.least_even()]) == float(variation.max())
    for kind in range(3):
        chosen = found.least_even(kind)
        assert int(found.pairs.kind[chosen]) == kind
        assert float(variation[chosen]) == float(variation[found.pairs.kind == kind].max())


def test_shown_poses_are_those_of_the_curve(found):
    chosen = found.least_even()
    for name in ("line", "geodesic"):
        shown = found.poses(name, 5)
        assert shown.shape == (5, len(data.JOINTS), 3)
        ends = getattr(found.curves, name)[chosen][[0, -1]]
        expected = data.metres(found.g.model.mean(ends.float()))
        torch.testing.assert_close(shown[[0, -1]].float(), expected, atol=1e-5, rtol=0)


def test_numbers_and_words(found):
    rows = {row["quantity"]: row["value"] for row in found.numbers}
    assert len(rows) == len(found.numbers) == 11
    assert {row["id"] for row in found.numbers} == {"CH-5"}
    assert rows["human motion: geodesics that converged"] == found.n_converged
    made = data.metres(found.g.model.mean(found.g.test_latents))
    apart = (made - data.metres(found.g.data.test_images)).norm(dim=-1)
    error = rows["human motion: error of decoded test poses"]
    assert error == pytest.approx(100 * math.sqrt(float(apart.square().mean())), rel=1e-4)
    for text in (found.words, found.volume_words, found.steps_words):
        assert "nan" not in text


def test_other_trainings_are_asked_for_the_same_pairs(found, poses):
    same, other = (model_of(poses, seed) for seed in (1, 2))
    alone = study.over_trainings(found, [])
    assert alone.numbers == []
    assert alone.words == "All of this is of one training."
    mean = float(found.curves.line_variation.mean())
    assert study.over_trainings(found, [same]).line.estimates == pytest.approx([mean, mean])
    both = study.over_trainings(found, [other])
    assert both.line.estimates[0] == pytest.approx(mean)
    assert abs(both.line.estimates[1] / mean - 1) > 0.01
    assert len(both.numbers) == 4
    assert "Over 2 trainings the mean is" in both.words


class Bowl(nn.Module):
    """The surface (z_1, z_2, |z|^2 / 2), whose metric is I + z z^T with determinant 1 + |z|^2."""

    def forward(self, z):
        return torch.stack([z[..., 0], z[..., 1], z.square().sum(-1) / 2], dim=-1)


def test_lower_is_a_mean_by_latent_length():
    # along the x axis from 0 to 1, and half of it
    line = torch.stack([torch.linspace(0, 1, 33), torch.zeros(33)], dim=-1).double().unsqueeze(0)
    curve = line.clone()
    curve[0, :, 0] = curve[0, :, 0] ** 2  # the same points at other steps
    none = torch.zeros(1)
    same = magnification.lower(PullbackMetric(Bowl()), Evenness(line, curve, none, none))
    assert float(same.abs()) < 1e-3
    shorter = magnification.lower(PullbackMetric(Bowl()), Evenness(line, line / 2, none, none))

    def mean(end):  # of log(1 + x^2) / 2 over (0, end)
        return (math.log(1 + end**2) - 2 + 2 * math.atan(end) / end) / 2

    assert float(shorter) == pytest.approx(mean(0.5) - mean(1.0), abs=2e-3)


@pytest.mark.parametrize(
    ("geodesics", "lines", "lower", "converged", "verdicts"),
    [
        (0.01, 0.5, -0.2, 9, ("supported", "supported")),
        (0.2, 0.5, -0.2, 9, ("contradicted", "supported")),
        (0.01, 0.05, 0.2, 9, ("contradicted", "contradicted")),
        (0.01, 0.5, 0.0, 5, ("supported", "not reproduced")),
        (0.01, 0.5, -0.2, 4, (Verdict.NOT_TESTABLE, Verdict.NOT_TESTABLE)),
    ],
)
def test_verdicts(found, geodesics, lines, lower, converged, verdicts):
    near = torch.linspace(-1e-3, 1e-3, 9).double()
    curves = dataclasses.replace(found.curves, line_variation=lines + near, geodesic_variation=geodesics + near)
    changed = dataclasses.replace(found, curves=curves, lower=lower + near, converged=torch.arange(9) < converged)
    claims = changed.claims
    assert [claim["verdict"] for claim in claims] == [str(verdict) for verdict in verdicts]
    assert {claim["id"] for claim in claims} == {"CH-5"}
    assert "human motion" in claims[0]["claim"]


@pytest.mark.usefixtures("style")
@pytest.mark.parametrize("draw", [panels.latent_space, panels.motion, panels.evenly])
def test_panels_are_fit_for_print(found, draw):
    figure = draw(found)
    figure.draw_without_rendering()
    assert complaints(figure) == []


@pytest.mark.usefixtures("style")
def test_frames_follow_both_curves(found):
    seen = []
    for figure in panels.frames(found):
        _, *bodies = figure.axes
        seen.append([body.collections[0].get_segments()[0].copy() for body in bodies])
    assert len(seen) == evenness.STEPS + 1
    # both begin and end with the same pose
    for ends in (seen[0], seen[-1]):
        torch.testing.assert_close(torch.tensor(ends[0]), torch.tensor(ends[1]), atol=1e-5, rtol=0)
