"""What holds for every result of ``geodesic()``, converged or not."""

import torch

from geolib import PullbackMetric, Status, curve_length

CONVERGED = (Status.CONVERGED, Status.CONVERGED_FROM_LINE, Status.SAME_POINT)


def fine_length(metric, g, n=8000):
    return curve_length(metric, g.curve(torch.linspace(0, 1, n + 1, dtype=g.length.dtype)))


def chord(metric, start, end):
    """The distance between the images, and what rounding may do to it; zero for a metric without an immersion."""
    if not (isinstance(metric, PullbackMetric) and metric.has_immersion):
        return torch.zeros(torch.broadcast_shapes(start.shape, end.shape)[:-1], dtype=start.dtype), 0.0
    a, b = metric.immersion(start), metric.immersion(end)
    return (b - a).norm(dim=-1), 1e2 * torch.finfo(start.dtype).eps * float(a.norm(dim=-1).max())


def assert_keeps_its_promises(metric, start, end, g, *, rtol=1e-4, n_segments=32):
    """What holds for every result, converged or not."""
    shape = torch.broadcast_shapes(start.shape, end.shape)
    batch, d = shape[:-1], shape[-1]
    assert g.points.shape == (*batch, n_segments + 1, d)
    numbers = (g.length, g.line_length, g.lower_bound, g.improvement, g.residual)
    for value in (*numbers, g.converged, g.status, g.n_steps):
        assert value.shape == batch
    for value in (g.points, *numbers):
        assert value.dtype == start.dtype
        assert torch.isfinite(value).all()
        assert value.grad_fn is None
    assert torch.equal(g.points[..., 0, :], start.expand(shape))
    assert torch.equal(g.points[..., -1, :], end.expand(shape))
    ends = g.curve(torch.tensor([0.0, 1.0], dtype=start.dtype))
    assert torch.equal(ends, torch.stack([start.expand(shape), end.expand(shape)], dim=-2))
    assert (g.length <= g.line_length).all()
    assert (g.lower_bound <= g.length).all()
    bound, rounded = chord(metric, start, end)
    torch.testing.assert_close(g.lower_bound, torch.minimum(bound, g.length), rtol=0, atol=rounded)
    assert (g.improvement >= 0).all()
    assert (g.residual >= 0).all()
    rounding = 1e2 * torch.finfo(start.dtype).eps
    torch.testing.assert_close(g.length, fine_length(metric, g), rtol=2 * rtol + rounding, atol=1e-5)
    known = torch.tensor([g.status.eq(s).sum() for s in Status]).sum()
    assert known == g.status.numel()
    assert torch.equal(g.converged, torch.isin(g.status, torch.tensor(CONVERGED)))
    same = (start == end).all(-1)
    assert torch.equal(g.status == Status.SAME_POINT, same)
    assert torch.equal(g.status == Status.SINGULAR, (g.line_length == 0) & ~same)
