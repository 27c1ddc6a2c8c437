"""Spaces with exact answers, and small decoders: the ground truth that the other files test against."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_bvp
from torch import Tensor, nn

from geolib import PullbackMetric

Points = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Space:
    """A Riemannian space whose distances are known without geolib."""

    name: str
    metric: PullbackMetric | Callable[[Tensor], Tensor]
    distance: Callable[[Tensor, Tensor], Tensor]
    """start, end ``(n, d)`` -> ``(n,)``"""
    sample: Callable[[int, torch.Generator, torch.dtype], tuple[Tensor, Tensor]]
    """starts and ends ``(n, d)`` whose shortest curve stays where the chart is regular"""
    tensor: Callable[[Tensor], Tensor]
    """the metric by hand, ``z (n, d) -> (n, d, d)``"""
    geodesic: Points | None = None
    """start, end ``(n, d)``, t ``(T,)`` -> points ``(n, T, d)`` of the geodesic at constant speed"""

    def __str__(self) -> str:
        return self.name


def sampler(d: int, scale: float = 1.0) -> Callable:
    def sample(n: int, generator: torch.Generator, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        start, end = scale * torch.randn(2, n, d, generator=generator, dtype=torch.float64)
        return start.to(dtype), end.to(dtype)

    return sample


def straight(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    return torch.lerp(start[:, None], end[:, None], t[:, None])


# Flat spaces


def flat_plane() -> Space:
    """The identity as a plain callable; distance |b - a|."""

    def identity(z: Tensor) -> Tensor:
        return torch.eye(2, dtype=z.dtype).expand(*z.shape, 2)

    return Space("flat plane", identity, lambda a, b: (b - a).norm(dim=-1), sampler(2), identity, straight)


def linear_map(d: int, D: int, condition: float, seed: int = 0) -> Tensor:
    """``A (D, d)`` with singular values from 1 to ``condition``, in float64."""
    generator = torch.Generator().manual_seed(seed)
    U, V = (torch.linalg.qr(torch.randn(n, d, generator=generator, dtype=torch.float64))[0] for n in (D, d))
    return U * torch.logspace(0, math.log10(condition), d, dtype=torch.float64) @ V.T


def linear_decoder(name: str, A: Tensor) -> Space:
    """x = A z; G = A^T A, distance |A (b - a)|."""

    def decode(z: Tensor) -> Tensor:
        return z @ A.to(z).T

    def tensor(z: Tensor) -> Tensor:
        return (A.T @ A).to(z).expand(*z.shape, z.shape[-1])

    metric = PullbackMetric(decode)
    return Space(name, metric, lambda a, b: decode(b - a).norm(dim=-1), sampler(A.shape[1]), tensor, straight)


# Curved spaces


def circle(radius: float = 2.0) -> Space:
    """The angle, immersed in the plane (d = 1); G = R^2, distance R |b - a| along the covering line."""

    def immersion(z: Tensor) -> Tensor:
        return radius * torch.cat([z.cos(), z.sin()], dim=-1)

    def tensor(z: Tensor) -> Tensor:
        return torch.full((*z.shape, 1), radius**2, dtype=z.dtype)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return radius * (b - a).abs()[:, 0]

    return Space("circle", PullbackMetric(immersion), distance, sampler(1), tensor, straight)


def sphere_point(z: Tensor) -> Tensor:
    """Colatitude and longitude ``(..., 2)`` to the unit sphere in space ``(..., 3)``."""
    theta, phi = z.unbind(-1)
    return torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], dim=-1)


def sphere_angles(x: Tensor) -> Tensor:
    """The inverse of ``sphere_point`` along curves ``(n, T, 3)``, the longitude continuous along each."""
    phi = np.unwrap(torch.atan2(x[..., 1], x[..., 0]).numpy(), axis=1)
    theta = torch.atan2(x[..., :2].norm(dim=-1), x[..., 2])
    return torch.stack([theta, torch.from_numpy(phi)], dim=-1)


def great_circle_distance(a: Tensor, b: Tensor) -> Tensor:
    """By the chord, which is exact for near and far pairs alike where acos of the inner product is not."""
    return 2 * torch.asin((sphere_point(a) - sphere_point(b)).norm(dim=-1) / 2)


def great_circle(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    x, y, angle = sphere_point(start), sphere_point(end), great_circle_distance(start, end)[:, None, None]
    s = t[:, None]
    return sphere_angles((((1 - s) * angle).sin() * x[:, None] + (s * angle).sin() * y[:, None]) / angle.sin())


def sphere_pairs(n: int, generator: torch.Generator, dtype: torch.dtype, nearest=0.1, farthest=2.5) -> tuple:
    """Pairs at distances evenly from ``nearest`` to ``farthest`` whose great circles stay 0.5 rad off the poles."""
    starts, ends = [], []
    t = torch.linspace(0, 1, 200, dtype=torch.float64)[:, None]
    for angle in torch.linspace(nearest, farthest, n, dtype=torch.float64):
        while True:
            x, v = torch.randn(2, 3, generator=generator, dtype=torch.float64)
            x = x / x.norm()
            v = v - (v @ x) * x
            arc = sphere_angles(((angle * t).cos() * x + (angle * t).sin() * v / v.norm()).unsqueeze(0))[0]
            if arc[:, 0].min() > 0.5 and arc[:, 0].max() < math.pi - 0.5:
                break
        starts.append(arc[0])
        ends.append(arc[-1])
    return torch.stack(starts).to(dtype), torch.stack(ends).to(dtype)


def sphere() -> Space:
    """The unit sphere by colatitude and longitude; G = diag(1, sin^2 theta)."""

    def tensor(z: Tensor) -> Tensor:
        return torch.diag_embed(torch.stack([torch.ones_like(z[..., 0]), z[..., 0].sin().square()], dim=-1))

    return Space("sphere", PullbackMetric(sphere_point), great_circle_distance, sphere_pairs, tensor, great_circle)


def half_plane_distance(a: Tensor, b: Tensor) -> Tensor:
    return torch.acosh(1 + (b - a).square().sum(-1) / (2 * a[..., 1] * b[..., 1]))


def half_plane_geodesic(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Half a circle about a point of the x axis, at constant speed; not for vertical pairs."""
    (xa, ya), (xb, yb) = start.T, end.T
    center = (xb**2 + yb**2 - xa**2 - ya**2) / (2 * (xb - xa))
    radius = torch.hypot(xa - center, ya)
    # the arc length of x = c + r tanh s, y = r / cosh s is s
    first, last = ((x - center) / radius for x in (xa, xb))
    s = torch.lerp(first.atanh()[:, None], last.atanh()[:, None], t)
    return torch.stack([center[:, None] + radius[:, None] * s.tanh(), radius[:, None] / s.cosh()], dim=-1)


def half_plane() -> Space:
    """Poincare's half-plane, I / y^2: a metric that comes without an immersion."""

    def metric(z: Tensor) -> Tensor:
        return torch.eye(2, dtype=z.dtype) / z[..., 1].square()[..., None, None]

    def sample(n: int, generator: torch.Generator, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        x = torch.randn(2, n, generator=generator, dtype=torch.float64)
        y = torch.rand(2, n, generator=generator, dtype=torch.float64) * 1.5 + 0.5
        start, end = torch.stack([x, y], dim=-1)
        return start.to(dtype), end.to(dtype)

    return Space("half-plane", metric, half_plane_distance, sample, metric, half_plane_geodesic)


def paraboloid_distance(a: Tensor, b: Tensor) -> Tensor:
    """By the geodesic equation of the graph of f = |z|^2 / 2, z'' = -z |z'|^2 / (1 + |z|^2), as scipy solves it."""

    def one(start: np.ndarray, end: np.ndarray) -> float:
        def equation(_: np.ndarray, state: np.ndarray) -> np.ndarray:
            z, v = state[:2], state[2:]
            return np.vstack([v, -z * (v**2).sum(0) / (1 + (z**2).sum(0))])

        t = np.linspace(0, 1, 21)
        line = start[:, None] + (end - start)[:, None] * t
        guess = np.vstack([line, np.broadcast_to((end - start)[:, None], line.shape)])
        found = solve_bvp(equation, lambda p, q: np.hstack([p[:2] - start, q[:2] - end]), t, guess, tol=1e-8)
        assert found.success
        z, v = found.y[:2, 0], found.y[2:, 0]
        return float(np.sqrt(v @ v + (z @ v) ** 2))  # constant along the curve

    return torch.tensor([one(p, q) for p, q in zip(a.double().numpy(), b.double().numpy(), strict=True)]).to(a)


def paraboloid() -> Space:
    """The graph of |z|^2 / 2; G = I + z z^T."""

    def immersion(z: Tensor) -> Tensor:
        return torch.cat([z, z.square().sum(-1, keepdim=True) / 2], dim=-1)

    def tensor(z: Tensor) -> Tensor:
        return torch.eye(2, dtype=z.dtype) + z[..., None] * z[..., None, :]

    return Space("paraboloid", PullbackMetric(immersion), paraboloid_distance, sampler(2, 0.7), tensor)


SPACES = (
    flat_plane(),
    linear_decoder("linear", linear_map(2, 5, 2)),
    linear_decoder("linear anisotropic", linear_map(2, 5, 300)),
    linear_decoder("linear in 1D", linear_map(1, 3, 1)),
    linear_decoder("linear in 3D", linear_map(3, 8, 10)),
    linear_decoder("linear in 16D", linear_map(16, 20, 10)),
    circle(),
    sphere(),
    half_plane(),
    paraboloid(),
)


# Decoders


def seeded(build: Callable[[], nn.Module], seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A module whose weights depend on the seed alone, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().to(dtype).eval()


def mlp(
    d: int = 2, D: int = 7, seed: int = 0, dtype: torch.dtype = torch.float64, *, gain: float = 1.5, width: int = 16
) -> nn.Module:
    """A smooth decoder, bent enough that straight lines are no geodesics."""

    def build() -> nn.Module:
        net = nn.Sequential(nn.Linear(d, width), nn.Tanh(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, D))
        for layer in net[::2]:
            nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.in_features))
            nn.init.normal_(layer.bias, std=0.5)
        return net

    return seeded(build, seed, dtype)


def deviation(
    d: int = 2, D: int = 7, seed: int = 1, dtype: torch.dtype = torch.float64, *, gain: float = 1.5, width: int = 16
) -> nn.Module:
    """A positive standard deviation."""
    return nn.Sequential(mlp(d, D, seed, dtype, gain=gain, width=width), nn.Softplus()).eval()


def conv_decoder(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Two to 36 dimensions by a transposed convolution with batch norm, whose statistics are not the identity."""

    def build() -> nn.Module:
        norm = nn.BatchNorm2d(4)
        net = nn.Sequential(
            nn.Linear(2, 4 * 3 * 3),
            nn.Unflatten(1, (4, 3, 3)),
            norm,
            nn.ELU(),
            nn.ConvTranspose2d(4, 1, 4, stride=2, padding=1),
            nn.Sigmoid(),
            nn.Flatten(),
        )
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        return net

    return seeded(build, seed, dtype)


def wall_metric(width: float = 0.006) -> PullbackMetric:
    """The flat plane but for a ridge in sigma across x = 1/32, in the middle of one of 32 segments from x = -1 to 1 and
    by default far thinner than they are: those segments see nothing of it. Over it goes 4 up and down; around it is
    cheap.
    """

    def std(z: Tensor) -> Tensor:
        x, y = z.split(1, dim=-1)
        height = 2 * torch.exp(-(((x - 1 / 32) / width) ** 2) / 2 - (y / 0.3) ** 2 / 2)
        return torch.cat([height, torch.zeros_like(height)], dim=-1)

    return PullbackMetric(lambda z: z * 1.0, std)


WALL = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)


def two_ridges() -> PullbackMetric:
    """Ridges in sigma across x = 0 at y = 0 and y = 0.9.

    A curve that begins as the line from (-1, 0.3) to (1, 0.3) ends in the high pass between them; the way below both
    is shorter.
    """

    def std(z: Tensor) -> Tensor:
        x, y = z.split(1, dim=-1)
        height = 2 * torch.exp(-((x / 0.3) ** 2) / 2) * sum(torch.exp(-(((y - at) / 0.3) ** 2) / 2) for at in (0, 0.9))
        return torch.cat([height, torch.zeros_like(height)], dim=-1)

    return PullbackMetric(lambda z: z * 1.0, std)
