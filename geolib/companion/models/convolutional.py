"""A convolutional decoder of sixteen latent dimensions, trained to give images back from their principal components."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from geolib.companion.cache import progress, store
from geolib.companion.data.datasets import ImageData
from geolib.companion.models import weights

_RECIPE = 1  # counts changes of this file that change the weights, so that older caches are not taken for these


@dataclass(frozen=True)
class ConvolutionalTraining:
    """How a convolutional decoder is trained: least squares by Adam, on the CPU."""

    epochs: int = 5
    latent_dim: int = 16
    batch_size: int = 128
    learning_rate: float = 2e-3
    seed: int = 0


@dataclass(frozen=True)
class TrainedDecoder:
    """A decoder without a variance, ready to be measured, and the latents of its data."""

    data: ImageData
    decoder: nn.Sequential
    train_latents: Tensor
    """(n, d), the images' principal components, scaled to unit variance"""
    test_latents: Tensor
    """(m, d)"""


def trained_decoder(
    data: ImageData, training: ConvolutionalTraining, *, device: torch.device | str = "cpu"
) -> TrainedDecoder:
    """Load the decoder that these data and settings give; train it first where it is not in ``data/derived``."""
    train_latents, test_latents = _principal_components(data, training.latent_dim)
    configuration = {"recipe": _RECIPE, **asdict(training), "data": data.fingerprint}

    def build(path: Path) -> None:
        decoder = _trained(_decoder(training.latent_dim), train_latents, data.train_images, training)
        weights.save(path, decoder.state_dict(), configuration)

    def load(path: Path) -> dict[str, Tensor]:
        return weights.load_made_for(path, configuration)[0]

    tensors = store.cached("conv-decoder", configuration, ".safetensors", build=build, load=load)
    decoder = _decoder(training.latent_dim)
    decoder.load_state_dict(tensors)
    decoder.eval().requires_grad_(False).to(device)
    return TrainedDecoder(data, decoder, train_latents.to(device), test_latents.to(device))


def _decoder(latent_dim: int) -> nn.Sequential:
    """Latents to 28 x 28 pixels by transposed convolutions, smooth."""
    return nn.Sequential(
        nn.Linear(latent_dim, 16 * 7 * 7),
        nn.Unflatten(1, (16, 7, 7)),
        nn.SiLU(),
        nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1),
        nn.SiLU(),
        nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1),
        nn.Sigmoid(),
        nn.Flatten(),
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


def _trained(decoder: nn.Sequential, latents: Tensor, images: Tensor, training: ConvolutionalTraining) -> nn.Sequential:
    generator = torch.Generator().manual_seed(training.seed)
    for p in decoder.parameters():
        bound = 1 / math.sqrt(p[0].numel()) if p.ndim > 1 else 0.0
        nn.init.uniform_(p, -bound, bound, generator=generator)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=training.learning_rate)
    for epoch in range(training.epochs):
        progress.say(f"convolutional decoder: epoch {epoch + 1} of {training.epochs}")
        for batch in torch.randperm(len(images), generator=generator).split(training.batch_size):
            loss = (decoder(latents[batch]) - images[batch]).square().sum(-1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return decoder
