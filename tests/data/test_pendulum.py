"""pendulum and robot_arm: images and poses whose truth is known; binarised digits."""

import math

import pytest
import torch
from project import bundled

from geolib.companion.data import datasets, pendulum, robot_arm

pytestmark = pytest.mark.smoke


def test_a_pendulum_is_where_its_angle_says():
    angle = torch.tensor([0.0, 90.0, 180.0, 270.0]).deg2rad()
    images = pendulum.rendered(angle).unflatten(-1, pendulum.SHAPE).double()
    centre = torch.arange(16) + 0.5 - 8
    total = images.sum((1, 2))
    x, y = (images.sum(1) * centre).sum(-1) / total, (images.sum(2) * centre).sum(-1) / total
    # hanging down, to the right, up, to the left: rows run downwards
    expected = torch.tensor([[0, 1], [1, 0], [0, -1], [-1, 0]], dtype=torch.float64)
    found = torch.stack([x, y], dim=-1)
    torch.testing.assert_close(found / found.norm(dim=-1, keepdim=True), expected, atol=1e-6, rtol=0)
    assert float(images.max()) <= 1
    assert float(images[:, 0, 0].max()) < 1e-3


def test_pendulums_go_over_the_whole_circle_with_a_little_noise():
    data = pendulum.load(500, seed=3)
    assert (data.train_images.shape, data.test_images.shape, data.shape) == ((400, 256), (100, 256), (16, 16))
    assert data.classes == tuple(range(8))
    assert 0 <= float(data.train_images.min()) < float(data.train_images.max()) <= 1
    angles = pendulum.test_angles(data)
    torch.testing.assert_close(angles.diff(), torch.full((99,), 2 * math.pi / 100, dtype=torch.float64))
    clean = pendulum.rendered(angles)
    inside = (clean > 0.3) & (clean < 0.7)  # where no noise is cut off
    assert float((data.test_images - clean)[inside].std()) == pytest.approx(pendulum.NOISE, rel=0.05)
    turned = (angles.rad2deg() - 45 * data.test_labels).abs()
    assert float(torch.minimum(turned, 360 - turned).max()) <= 22.5 + 1e-9
    assert torch.equal(pendulum.load(500, seed=3).train_images, data.train_images)
    assert pendulum.load(500, seed=4).fingerprint != data.fingerprint


def test_the_angle_between_is_the_shorter_way_round():
    first, second = torch.tensor([0.1, 0.1, 0.0, 6.2]), torch.tensor([6.2, 0.3, math.pi, 0.1])
    expected = torch.tensor([2 * math.pi - 6.1, 0.2, math.pi, 2 * math.pi - 6.1])
    torch.testing.assert_close(pendulum.apart(first, second), expected)


def test_forward_kinematics_by_hand():
    joints = torch.zeros(3, 6)
    joints[1, 0] = math.pi / 2  # the whole arm is turned
    joints[2, 3] = math.pi / 2  # the last three links are
    ends = robot_arm.positions(joints)
    steps = torch.arange(1, 7) / 6
    torch.testing.assert_close(ends[0], torch.stack([steps, torch.zeros(6)], dim=-1))
    torch.testing.assert_close(ends[1], torch.stack([torch.zeros(6), steps], dim=-1), atol=1e-6, rtol=0)
    expected = torch.tensor([[1, 0], [2, 0], [3, 0], [3, 1], [3, 2], [3, 3]]) / 6
    torch.testing.assert_close(ends[2], expected, atol=1e-6, rtol=0)


def test_links_keep_their_length_and_poses_their_range():
    data = robot_arm.load(500, seed=3)
    images = torch.cat([data.train_images, data.test_images])
    assert 0 < float(images.min()) < float(images.max()) < 1
    ends = robot_arm.in_space(images)
    links = torch.cat([ends[:, :1], ends.diff(dim=1)], dim=1)
    torch.testing.assert_close(links.norm(dim=-1), torch.full((500, 6), 1 / 6), atol=1e-5, rtol=0)
    direction = torch.atan2(links[..., 1], links[..., 0])
    assert 0.95 * robot_arm.TURN < float(direction[:, 0].abs().max()) < robot_arm.TURN + 5 * robot_arm.NOISE
    turned = direction.diff(dim=1)
    bends = torch.atan2(turned.sin(), turned.cos())
    assert 0.95 * robot_arm.BEND < float(bends.abs().max()) < robot_arm.BEND + 5 * robot_arm.NOISE
    # all but the first bend alike, up to the joints' own errors
    assert float(bends.var(dim=1).mean().sqrt()) == pytest.approx(robot_arm.NOISE, rel=0.1)
    labels = torch.cat([data.train_labels, data.test_labels])
    sure = (bends.mean(1).abs() > 0.1) & (direction[:, 0].abs() > 0.1)
    expected = 2 * (direction[:, 0] > 0).long() + (bends.mean(1) > 0).long()
    assert torch.equal(labels[sure], expected[sure])
    assert robot_arm.load(500, seed=4).fingerprint != data.fingerprint


def test_digits_are_zeros_and_ones(monkeypatch, tmp_path_factory):
    whole = bundled(tmp_path_factory)
    monkeypatch.setattr(datasets, "load", lambda name: whole)
    data = datasets.binarised_digits(30)
    assert data.train_labels.bincount().tolist() == [30] * 10
    assert torch.equal(data.test_images, (whole.test_images > 0.5).float())
    assert data.train_images.unique().tolist() == [0, 1]
    first = (whole.train_labels == 7).nonzero()[:30, 0]
    assert torch.equal(data.train_images[data.train_labels == 7], (whole.train_images[first] > 0.5).float())
    assert (data.notice, data.substitute) == (whole.notice, whole.substitute)
    assert len({data.fingerprint, whole.fingerprint, datasets.binarised_digits(20).fingerprint}) == 3


def test_numbers_that_there_are_not():
    for load in (pendulum.load, robot_arm.load):
        with pytest.raises(ValueError, match="n: got 49, expected at least 50"):
            load(49)
    with pytest.raises(ValueError, match="n_per_class: got 0, expected at least 1"):
        datasets.binarised_digits(0)
