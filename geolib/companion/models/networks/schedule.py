"""How a model is trained: the optimiser, phases one after the other, and in each of them players that take turns."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Player:
    """One side of a training."""

    loss: Callable[[nn.Module, Tensor, Tensor], Tensor]
    """of a model, images ``(n, D)`` and standard normal noise ``(n, model.noise_dim)``: ``(n,)``"""
    parameters: list[nn.Parameter]
    """those that it changes to lower its loss"""


@dataclass(frozen=True)
class Phase:
    """Epochs in which every player takes a step on each batch, one after the other."""

    name: str
    epochs: int
    players: tuple[Player, ...]
    """the loss of the last one is what the history tells"""
    norms_follow: bool = True
    """whether batch norm follows the batches"""
    before_epoch: Callable[[nn.Module, int, int], None] | None = None
    """called with the model, the number of an epoch, from 0, and that of all, before each epoch"""


@dataclass(frozen=True)
class TrainingConfig:
    """Epochs of the first phase and of the variance head's, batches, and a learning rate that falls to 0."""

    epochs: int = 100
    variance_epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "variance_epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected at least 1")

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Adam at the initial learning rate."""
        return torch.optim.Adam(parameters, lr=self.learning_rate, fused=True)

    def order(self, n_images: int, generator: torch.Generator) -> Tensor:
        """Indices of the images that an epoch goes through, one batch after the other: each of so many once."""
        return torch.randperm(n_images, generator=generator)

    def rate(self, epoch: int, epochs: int) -> float:
        """The learning rate of an epoch, counted from 0: a cosine that falls to 0."""
        return self.learning_rate * float(0.5 * (1 + torch.cos(torch.tensor(epoch / epochs * torch.pi))))


@dataclass(frozen=True)
class DecayingTraining(TrainingConfig):
    """Training with weight decay and a learning rate that falls by a factor per epoch."""

    batch_size: int = 16
    learning_rate: float = 5e-3
    decay: float = 0.95
    weight_decay: float = 1e-4

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Adam at the initial learning rate, with weight decay."""
        return torch.optim.Adam(parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)

    def rate(self, epoch: int, epochs: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return self.learning_rate * self.decay**epoch


@dataclass(frozen=True)
class ConstantTraining(TrainingConfig):
    """Training at a constant learning rate, with averages of one's own."""

    learning_rate: float = 1e-2
    betas: tuple[float, float] = (0.5, 0.99)

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Adam with these averages."""
        return torch.optim.Adam(parameters, lr=self.learning_rate, betas=self.betas, fused=True)

    def rate(self, epoch: int, epochs: int) -> float:
        """The learning rate of an epoch."""
        return self.learning_rate


@dataclass(frozen=True)
class FilledTraining(TrainingConfig):
    """Training by epochs that have a number of images at least, so that few images get as many steps as many do."""

    filled_to: int = 1
    """an epoch goes through fewer images than that again and again, until it has so many"""

    def order(self, n_images: int, generator: torch.Generator) -> Tensor:
        """Indices of the images that an epoch goes through: none a second time before all have had their turn."""
        length = max(n_images, self.filled_to)
        passes = [torch.randperm(n_images, generator=generator) for _ in range(math.ceil(length / n_images))]
        return torch.cat(passes)[:length]


@dataclass(frozen=True)
class ConstantFilledTraining(FilledTraining, ConstantTraining):
    """The same at a constant learning rate."""

    learning_rate: float = 8e-5
    betas: tuple[float, float] = (0.9, 0.999)
