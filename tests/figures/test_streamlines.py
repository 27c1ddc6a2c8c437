"""streamlines: straight, evenly spaced, without signs, ended where the field ends."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from geolib.companion.figures import streamlines

pytestmark = pytest.mark.slow


def field(direction, side=41, half=2.0):
    """A direction field over [-half, half]^2: ``direction`` maps x, y (ny, nx) to its two components."""
    x = np.linspace(-half, half, side)
    vectors = np.stack(np.broadcast_arrays(*direction(*np.meshgrid(x, x)), np.empty((side, side)))[:2], axis=-1)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return streamlines.DirectionField(x, x, vectors / np.where(length > 0, length, 1))


def constant(degrees):
    return field(lambda x, y: (np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))))


def rotating(x, y):
    return -y, x


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 107])
def test_lines_of_a_constant_field_are_straight(degrees):
    across = np.array([-np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))])
    lines = streamlines.streamlines(constant(degrees), spacing=0.25)
    assert len(lines) >= 10
    for line in lines:
        assert np.ptp(line @ across) < 1e-9
        steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
        np.testing.assert_allclose(steps, 0.25 / 8, rtol=1e-9)
        assert steps.sum() >= 0.25 * 0.99 - 0.25 / 8
        assert np.abs(line).max() <= 2 + 0.25 / 8  # within one step of the edge


@pytest.mark.parametrize("degrees", [0, 90])
def test_lines_along_the_axes_are_a_spacing_apart(degrees):
    lines = streamlines.streamlines(constant(degrees), spacing=0.25)
    offsets = sorted(line[0][1 if degrees == 0 else 0] for line in lines)
    np.testing.assert_allclose(np.diff(offsets), 0.25, rtol=1e-6)
    assert min(len(line) for line in lines) * 0.25 / 8 > 3.9  # from edge to edge


@pytest.mark.parametrize("degrees", [0, 17, 30, 45, 90, 107])
def test_lines_keep_half_a_spacing_apart_and_leave_no_gaps(degrees):
    spacing = 0.25
    lines = streamlines.streamlines(constant(degrees), spacing=spacing)
    nearest = [cKDTree(np.concatenate(lines[:i] + lines[i + 1 :])).query(line)[0].min() for i, line in enumerate(lines)]
    # a line may end up to a step inside the forbidden distance
    assert min(nearest) >= spacing / 2 - spacing / 8
    inside = np.linspace(-1.5, 1.5, 31)
    places = np.stack(np.meshgrid(inside, inside), axis=-1).reshape(-1, 2)
    assert cKDTree(np.concatenate(lines)).query(places)[0].max() <= spacing


def test_lines_of_a_rotation_are_arcs_of_one_radius():
    spacing = 0.25
    lines = streamlines.streamlines(field(rotating, side=81), spacing=spacing)
    radii = [np.linalg.norm(line, axis=1) for line in lines]
    assert max(np.ptp(r) / r.mean() for r in radii if r.mean() > 0.3) < 0.01
    # those near the centre come back to where they began, and stop there
    turns = {
        float(r.mean()): abs(np.ptp(np.unwrap(np.arctan2(line[:, 1], line[:, 0])))) / (2 * np.pi)
        for line, r in zip(lines, radii, strict=True)
    }
    assert 0.9 < turns[min(radius for radius in turns if radius > 0.3)] < 1.1
    assert max(turns.values()) < 1.1


@pytest.mark.parametrize("direction", [rotating, lambda x, y: (1.0, 0.3), lambda x, y: (x, -y)])
def test_signs_of_the_input_do_not_matter(direction):
    plain = field(direction)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(*plain.directions.shape[:2], 1))
    flipped = streamlines.DirectionField(plain.x, plain.y, plain.directions * signs)
    lines, others = (streamlines.streamlines(f, spacing=0.3) for f in (plain, flipped))
    assert len(lines) == len(others) > 5
    for line, other in zip(lines, others, strict=True):
        np.testing.assert_allclose(line, other, atol=1e-9)


def test_lines_end_where_the_field_is_not_a_number():
    plain = constant(0)
    holed = plain.directions.copy()
    holed[15:26, 15:26] = np.nan
    lines = streamlines.streamlines(streamlines.DirectionField(plain.x, plain.y, holed), spacing=0.25)
    points = np.concatenate(lines)
    assert np.isfinite(points).all()
    assert not (np.abs(points) < 0.45).all(axis=1).any()
    assert len(lines) > 16  # those that are cut in two
