"""What holds for every result of ``geodesic()``, converged or not."""

import torch

from geolib import Status, curve_length


def fine_length(metric, g, n=8000):
    return curve_length(metric, g.curve(torch.linspace(0, 1, n + 1, dtype=g.length.dtype)))


def assert_keeps_its_promises(metric, start, end, g, *, rtol=1e-4, n_segments=32):
    """What holds for every result, converged or not."""
    shape = torch.broadcast_shapes(start.shape, end.shape)
    batch, d = shape[:-1], shape[-1]
    assert g.points.shape == (*batch, n_segments + 1, d)
    for value in (g.length, g.line_length, g.improvement, g.residual, g.converged, g.status, g.n_steps):
        assert value.shape == batch
    for value in (g.points, g.length, g.line_length, g.improvement, g.residual):
        assert value.dtype == start.dtype
        assert torch.isfinite(value).all()
        assert value.grad_fn is None
    assert torch.equal(g.points[..., 0, :], start.expand(shape))
    assert torch.equal(g.points[..., -1, :], end.expand(shape))
    ends = g.curve(torch.tensor([0.0, 1.0], dtype=start.dtype))
    assert torch.equal(ends, torch.stack([start.expand(shape), end.expand(shape)], dim=-2))
    assert (g.length <= g.line_length).all()
    assert (g.improvement >= 0).all()
    assert (g.residual >= 0).all()
    rounding = 1e2 * torch.finfo(start.dtype).eps
    torch.testing.assert_close(g.length, fine_length(metric, g), rtol=2 * rtol + rounding, atol=1e-5)
    known = torch.tensor([g.status.eq(s).sum() for s in Status]).sum()
    assert known == g.status.numel()
    done = (g.status == Status.CONVERGED) | (g.status == Status.SAME_POINT)
    assert torch.equal(g.converged, done)
