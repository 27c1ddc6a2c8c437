"""The four problems on which solvers are compared: exact, small, real in two dimensions, real in sixteen."""

import copy
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from geolib import PullbackMetric
from geolib.companion.cache import progress, store
from geolib.companion.data.datasets import ImageData
from geolib.companion.models import generators, weights
from geolib.companion.models.generators import Generator
from geolib.companion.studies.shortest_curves.solvers import Counted, Problem

_CONV_RECIPE = {"recipe": 1, "latent_dim": 16, "batch_size": 128, "learning_rate": 2e-3}


class Sphere(nn.Module):
    """Colatitude and longitude ``(n, 2)`` to the unit sphere ``(n, 3)``."""

    def forward(self, z: Tensor) -> Tensor:
        theta, phi = z.unbind(-1)
        return torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], dim=-1)


def _problem(name: str, metric: PullbackMetric, start: Tensor, end: Tensor, latents: Tensor) -> Problem:
    counted = PullbackMetric(Counted(metric.mean), metric.std)
    mean, std = (m if m is None else copy.deepcopy(m).double() for m in (metric.mean, metric.std))
    return Problem(name, counted, PullbackMetric(mean, std), start, end, latents)


def sphere(n_pairs: int, *, seed: int) -> Problem:
    """Pairs at distances of up to 2.5 that keep off the poles of the chart; float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> Tensor:
        theta = math.pi / 2 + 0.9 * (2 * torch.rand(n, generator=generator, dtype=torch.float64) - 1)
        return torch.stack([theta, 2.5 * torch.rand(n, generator=generator, dtype=torch.float64)], dim=-1)

    return _problem("sphere", PullbackMetric(Sphere()), draw(n_pairs), draw(n_pairs), draw(1000))


def two_moons(g: Generator, n_pairs: int, *, seed: int) -> Problem:
    """Pairs of encoded test points of the two moons, in float64: see notebook 07."""
    order = torch.randperm(len(g.test_latents), generator=torch.Generator().manual_seed(seed))
    start, end = g.test_latents[order[:n_pairs]], g.test_latents[order[n_pairs : 2 * n_pairs]]
    double = generators.in_double(g)
    return _problem("two moons", double.metric, start.double(), end.double(), double.train_latents)


def digits(data: ImageData, g: Generator, n_pairs: int, *, seed: int) -> Problem:
    """Random pairs of test images in the digits VAE with RBF variance; float32."""
    first, second = generators.test_pairs(data, n_pairs, seed=seed)
    return _problem("digits, RBF", g.metric, g.test_latents[first], g.test_latents[second], g.train_latents)


def conv_decoder() -> nn.Sequential:
    """Sixteen dimensions to 28 x 28 pixels by transposed convolutions, smooth."""
    return nn.Sequential(
        nn.Linear(16, 16 * 7 * 7),
        nn.Unflatten(1, (16, 7, 7)),
        nn.SiLU(),
        nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1),
        nn.SiLU(),
        nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1),
        nn.Sigmoid(),
        nn.Flatten(),
    )


def convolutional(data: ImageData, n_pairs: int, *, epochs: int, seed: int, device: torch.device) -> Problem:
    """Pairs of test images under a convolutional decoder, float32. Its sixteen latents are the images' principal
    components, scaled to unit variance, and it is trained to give the images back; no variance. The graph is that of
    the first 500 latents, as an edge costs a thousand times what it costs in the plane."""
    latents, test = _principal_components(data, 16)
    configuration = {**_CONV_RECIPE, "epochs": epochs, "seed": seed, "data": data.fingerprint}

    def build(path: Path) -> None:
        decoder = _trained(conv_decoder(), latents, data.train_images, epochs=epochs, seed=seed)
        weights.save(path, decoder.state_dict(), configuration)

    tensors, _ = store.cached("conv-decoder", configuration, ".safetensors", build=build, load=weights.load)
    decoder = conv_decoder()
    decoder.load_state_dict(tensors)
    decoder.eval().requires_grad_(False).to(device)
    first, second = generators.test_pairs(data, n_pairs, seed=seed)
    return _problem(
        "convolutions, 16-d",
        PullbackMetric(decoder),
        *(x.to(device) for x in (test[first], test[second], latents[:500])),
    )


def _principal_components(data: ImageData, d: int) -> tuple[Tensor, Tensor]:
    """Of training and test images, ``(n, d)`` and ``(m, d)``, with the training images' mean 0 and variance 1."""
    mean = data.train_images.mean(0)
    covariance = torch.cov((data.train_images - mean).double().T)
    values, vectors = torch.linalg.eigh(covariance)
    # an eigenvector's sign is arbitrary: its largest component is made positive
    vectors = vectors[:, -d:].flip(-1)
    sign = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    axes = (vectors * sign / values[-d:].flip(-1).sqrt()).float()
    return (data.train_images - mean) @ axes, (data.test_images - mean) @ axes


def _trained(decoder: nn.Sequential, latents: Tensor, images: Tensor, *, epochs: int, seed: int) -> nn.Sequential:
    """Least squares by Adam, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    for p in decoder.parameters():
        bound = 1 / math.sqrt(p[0].numel()) if p.ndim > 1 else 0.0
        nn.init.uniform_(p, -bound, bound, generator=generator)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=_CONV_RECIPE["learning_rate"])
    for epoch in range(epochs):
        progress.say(f"convolutional decoder: epoch {epoch + 1} of {epochs}")
        for batch in torch.randperm(len(images), generator=generator).split(_CONV_RECIPE["batch_size"]):
            loss = (decoder(latents[batch]) - images[batch]).square().sum(-1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return decoder
