"""global_distances: the error bound, lengths below local minima, and paths as initial curves for solvers."""

import math

import pytest
import torch
from problems import (
    WALL,
    deviation,
    flat_plane,
    great_circle_distance,
    half_plane,
    linear_decoder,
    linear_map,
    mlp,
    sphere,
    two_ridges,
    wall_metric,
)

from geolib import PullbackMetric, curve_length, geodesic
from geolib.plane.distances import distance_field, global_distances

pytestmark = pytest.mark.smoke

DTYPE = torch.float64
SMALL = {"resolution": 128, "reach": 8}
TINY = {"resolution": 64, "reach": 4}
SQUARE = (-2, -2, 2, 2)


def along_axes(stretch):
    return linear_decoder(f"axes {stretch}", torch.diag(torch.tensor([1.0, stretch], dtype=DTYPE)))


SPACES = [
    (flat_plane(), SQUARE),
    (linear_decoder("linear 3", linear_map(2, 5, 3)), SQUARE),
    (linear_decoder("linear 10", linear_map(2, 5, 10)), SQUARE),
    (along_axes(3.0), SQUARE),
    (along_axes(10.0), SQUARE),
    (sphere(), (0.3, -1.5, math.pi - 0.3, 1.5)),
    (half_plane(), (-2, 0.2, 2, 3.2)),
]


def corners(box):
    return {"lower": torch.tensor(box[:2], dtype=DTYPE), "upper": torch.tensor(box[2:], dtype=DTYPE)}


def stars(box, n_starts, n_ends, generator):
    """Starts ``(S, 1, 2)`` and ends ``(S, E, 2)``, a third of them near, well within the box."""
    low, high = corners(box).values()
    share = torch.rand(2, n_starts, n_ends, 2, generator=generator, dtype=DTYPE)
    start = low + (high - low) * (0.15 + 0.7 * share[0, :, :1])
    end = low + (high - low) * (0.15 + 0.7 * share[1])
    near = slice(0, n_ends // 3)
    end[:, near] = start + (high - low) * 0.15 * (2 * share[1, :, near] - 1)
    return start, end


def exact(space, start, end):
    start = start.expand_as(end)
    return space.distance(start.reshape(-1, 2), end.reshape(-1, 2)).reshape(end.shape[:-1])


@pytest.mark.slow
@pytest.mark.parametrize(("space", "box"), SPACES, ids=lambda x: str(x) if hasattr(x, "metric") else "")
def test_the_error_holds_where_distances_are_known(space, box, generator):
    start, end = stars(box, 4, 60, generator)
    found = global_distances(space.metric, start, end, **corners(box), **SMALL)
    true = exact(space, start, end)
    assert found.distance.shape == found.error.shape == (4, 60)
    assert ((found.distance - true).abs() <= found.error + 1e-12).all()
    assert (found.distance >= true * (1 - 1e-4)).all()
    assert ((found.distance - true) / true)[:, 20:].median() < 1e-3
    assert (found.error / true)[:, 20:].median() < 1e-2
    assert found.contracting.double().mean() > 0.9
    assert found.inside.all()


def test_the_error_is_honest_where_stretch_is_extreme(generator):
    space = linear_decoder("", linear_map(2, 5, 300))
    start, end = stars(SQUARE, 4, 100, generator)
    found = global_distances(space.metric, start, end, **corners(SQUARE), **SMALL)
    off = found.distance - exact(space, start, end)
    assert off.min() > -1e-9
    assert (off > found.error + 1e-9).sum() <= 1


@pytest.mark.slow
def test_refinement_pays(generator):
    space, box = SPACES[5]
    start, end = stars(box, 3, 60, generator)
    true = exact(space, start, end)
    sizes = ({"resolution": 32, "reach": 4}, {"resolution": 64, "reach": 8}, {"resolution": 128, "reach": 16})
    found = [global_distances(space.tensor, start, end, **corners(box), **size) for size in sizes]
    off = [float((f.distance - true).abs().mean()) for f in found]
    said = [float(f.error.mean()) for f in found]
    assert off[0] > 2 * off[1] > 4 * off[2]
    assert said[0] > 2 * said[1] > 4 * said[2]


@pytest.mark.slow
def test_there_and_back_are_equally_far(generator):
    metric = PullbackMetric(mlp(), deviation())
    start, end = torch.randn(2, 6, 2, generator=generator, dtype=DTYPE)
    there, back = (global_distances(metric, a, b, **SMALL) for a, b in ((start, end), (end, start)))
    assert ((there.distance - back.distance).abs() <= torch.minimum(there.error, back.error)).all()


def test_a_local_minimum_is_found_out_and_the_path_leads_to_the_global_one():
    metric, (start, end) = two_ridges(), WALL + torch.tensor([0.0, 0.3], dtype=DTYPE)
    local = geodesic(metric, start, end, init="line")
    assert local.converged
    assert local.points[16, 1] > 0.3
    found = global_distances(metric, start, end, **SMALL)
    assert found.distance + found.error < 0.9 * local.length
    polished = geodesic(metric, start, end, init=found.paths)
    assert polished.converged
    assert (polished.length - found.distance).abs() <= found.error
    assert polished.points[16, 1] < -0.3


@pytest.mark.slow
@pytest.mark.parametrize("uncertain", [False, True])
def test_no_local_minimum_is_shorter(uncertain, generator):
    metric = PullbackMetric(mlp(gain=3.0), deviation() if uncertain else None)
    start, end = torch.randn(2, 4, 12, 2, generator=generator, dtype=DTYPE)
    start = start[:, :1]
    found = global_distances(metric, start, end, **SMALL)
    line, polished = geodesic(metric, start, end), geodesic(metric, start, end, init=found.paths)
    assert (line.length >= found.distance - found.error).all()
    assert (polished.length >= found.distance - found.error).all()
    assert (polished.length <= found.distance + found.error).double().mean() > 0.95
    agree = (line.length / polished.length - 1).abs() < 1e-3
    assert agree.double().mean() > 0.8
    assert ((line.length - found.distance).abs() <= found.error)[agree].all()


def test_paths_run_from_start_to_end_and_are_as_long_as_the_distance(generator):
    space, box = SPACES[6]
    start, end = stars(box, 2, 9, generator)
    found = global_distances(space.metric, start, end, **corners(box), n_segments=24, **SMALL)
    assert found.paths.shape == (2, 9, 25, 2)
    assert torch.equal(found.paths[..., 0, :], start.expand_as(end))
    assert torch.equal(found.paths[..., -1, :], end)
    torch.testing.assert_close(curve_length(space.metric, found.paths), found.distance, rtol=1e-2, atol=0)


def test_units_and_axes_do_not_matter(generator):
    metric, box = half_plane().metric, (-2.0, 0.2, 2.0, 3.2)
    start, end = stars(box, 2, 10, generator)
    found = global_distances(metric, start, end, **corners(box), **TINY)
    scaled = global_distances(lambda z: 9 * metric(z), start, end, **corners(box), **TINY)
    shrunk = global_distances(
        lambda z: 4 * metric(2 * z), start / 2, end / 2, **{k: v / 2 for k, v in corners(box).items()}, **TINY
    )
    swapped = global_distances(
        lambda z: metric(z.flip(-1)).flip(-1, -2),
        start.flip(-1),
        end.flip(-1),
        **{k: v.flip(-1) for k, v in corners(box).items()},
        **TINY,
    )
    for other, factor in ((scaled, 3), (shrunk, 1), (swapped, 1)):
        torch.testing.assert_close(other.distance, factor * found.distance, rtol=1e-9, atol=0)
    torch.testing.assert_close(scaled.error, 3 * found.error, rtol=1e-6, atol=1e-9)


def test_a_batch_is_its_pairs(generator):
    metric, box = PullbackMetric(mlp()), (-4, -4, 4, 4)
    start, end = torch.randn(2, 2, 3, 2, generator=generator, dtype=DTYPE)
    start[1, 0] = start[0, 2]
    whole = global_distances(metric, start, end, **corners(box), **TINY)
    assert whole.distance.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            alone = global_distances(metric, start[i, j], end[i, j], **corners(box), **TINY)
            for name in ("distance", "error", "contracting", "inside", "paths"):
                assert torch.equal(getattr(alone, name), getattr(whole, name)[i, j])


def test_the_metric_is_evaluated_once_at_each_node_without_gradients():
    seen = []

    def metric(z):
        assert not torch.is_grad_enabled()
        seen.append(z)
        return flat_plane().tensor(z)

    start = torch.zeros(2, dtype=DTYPE, requires_grad=True)
    found = global_distances(metric, start, WALL, **TINY)
    assert not found.distance.requires_grad
    nodes = torch.cat(seen)
    assert nodes.shape == (65**2, 2)
    assert len(nodes.unique(dim=0)) == 65**2
    # a square around all points, a quarter of their extent wider on each side
    torch.testing.assert_close(nodes.amin(0), torch.tensor([-1.5, -1.5], dtype=DTYPE))
    torch.testing.assert_close(nodes.amax(0), torch.tensor([1.5, 1.5], dtype=DTYPE))


def test_the_field_is_the_distances_at_its_nodes():
    space, box = SPACES[5]
    start = torch.tensor([1.2, 0.3], dtype=DTYPE)
    x, y, distance = distance_field(space.tensor, start, **corners(box), **SMALL)
    assert (x.shape, y.shape, distance.shape) == ((129,), (129,), (129, 129))
    at = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[::16, ::16]
    found = global_distances(space.tensor, start, at, **corners(box), **SMALL)
    # an end point that is a node has additional edges here, so it can only be nearer
    assert (found.distance <= distance[::16, ::16] + 1e-12).all()
    torch.testing.assert_close(found.distance, distance[::16, ::16], rtol=0, atol=1e-3)
    true = great_circle_distance(start.expand_as(at).reshape(-1, 2), at.reshape(-1, 2)).reshape(at.shape[:2])
    torch.testing.assert_close(distance[::16, ::16], true, rtol=0, atol=5e-3)


def test_float32_and_points_that_agree():
    start, end = torch.zeros(2), torch.tensor([[0.0, 0.0], [1.0, 0.5]])
    found = global_distances(PullbackMetric(mlp(dtype=torch.float32)), start, end, **TINY)
    assert {x.dtype for x in (found.distance, found.error, found.paths)} == {torch.float32}
    assert found.contracting.dtype == found.inside.dtype == torch.bool
    assert found.distance[0] == found.error[0] == 0
    assert torch.equal(found.paths[0], torch.zeros(33, 2))
    alone = global_distances(flat_plane().metric, start, start, **TINY)
    assert alone.distance == 0


def test_directions_without_length_cost_nothing():
    def metric(z):
        return torch.diag(torch.tensor([1.0, 0.0], dtype=z.dtype)).expand(*z.shape, 2)

    found = global_distances(metric, torch.zeros(2, dtype=DTYPE), torch.tensor([[0.0, 1], [0.6, 0.7]]).double(), **TINY)
    off = (found.distance - torch.tensor([0.0, 0.6], dtype=DTYPE)).abs()
    assert (off <= found.error + 1e-12).all()
    assert (found.error < 0.15).all()


def test_a_path_along_the_border_is_told():
    tight = {"lower": torch.tensor([-1.2, -0.3], dtype=DTYPE), "upper": torch.tensor([1.2, 0.3], dtype=DTYPE)}
    assert not global_distances(wall_metric(0.1), *WALL, **tight, **TINY).inside
    assert global_distances(wall_metric(0.1), *WALL, **TINY).inside


def test_a_feature_as_narrow_as_a_cell_is_told():
    found = global_distances(wall_metric(0.006), *WALL, **TINY)
    assert not found.contracting
    assert found.error > 0.1 * found.distance


A, B = torch.zeros(2), torch.ones(2)
BOX = {"lower": -2 * B, "upper": 2 * B}
BAD = {
    "start: got list": (([0.0, 0.0], B), {}),
    "start, end: got latent dimension 3, expected 2": ((torch.zeros(3), torch.ones(3)), {}),
    "end: got dtype torch.float64, expected torch.float32 like start": ((A, B.double()), {}),
    "resolution: got 130, expected a multiple of 4": ((A, B), {"resolution": 130}),
    "resolution: got 8, expected at least 16": ((A, B), {"resolution": 8}),
    "reach: got 2.0, expected an integer": ((A, B), {"reach": 2.0}),
    "reach: got 6, expected a multiple of 4": ((A, B), {"reach": 6}),
    "n_segments: got 2, expected at least 4": ((A, B), {"n_segments": 2}),
    "upper: got NoneType": ((A, B), {"lower": A}),
    r"lower: got shape \(3,\), expected \(2,\)": ((A, B), BOX | {"lower": -torch.ones(3)}),
    "lower: got dtype torch.float64, expected torch.float32": ((A, B), BOX | {"lower": -2 * B.double()}),
    r"got a box from \[0.0, 0.0\] to \[0.0, 1.0\], expected lower < upper": (
        (A, B),
        {"lower": A, "upper": torch.tensor([0.0, 1.0])},
    ),
    r"start, end: got 1 of 2 points outside the box .* first \[3.0, 3.0\]": ((A, 3 * B), BOX),
    "metric: got int": ((A, B), {"metric": 3}),
    r"metric: returned \(4096, 2\) for points \(4096, 2\), expected \(4096, 2, 2\)": ((A, B), {"metric": lambda z: z}),
    r"metric: not finite at 65 of 4096 points, first at z = \[-2, 0\]": (
        (B, 1.5 * B),
        BOX | TINY | {"metric": half_plane().metric},
    ),
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_input_is_told(sentence):
    points, options = BAD[sentence]
    with pytest.raises((TypeError, ValueError), match=sentence):
        global_distances(start=points[0], end=points[1], **{"metric": flat_plane().metric} | options)


def test_a_bad_field_is_told():
    with pytest.raises(ValueError, match=r"start: got shape \(1, 2\), expected \(2,\)"):
        distance_field(flat_plane().metric, torch.zeros(1, 2), **BOX)
    with pytest.raises(ValueError, match="start: got 1 of 1 points outside the box"):
        distance_field(flat_plane().metric, 3 * B, **BOX)
