"""Training that survives being killed, and is never done twice."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from geolib.companion.cache import progress, store
from geolib.companion.data.datasets import ImageData
from geolib.companion.models import weights
from geolib.companion.models.vae import VAE, ConvolutionalVAEConfig, VAEConfig, negative_elbo, negative_log_likelihood

_RECIPE = 1  # counts changes of this file that change the weights, so that older caches are not taken for these
_VALIDATION_SHARE = 0.1
_CHECKPOINT_EVERY = 5  # epochs, after the first one


@dataclass(frozen=True)
class TrainingConfig:
    """How a VAE is trained: first the evidence lower bound, then the variance head with all else fixed."""

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
class TrainedVAE:
    """A VAE ready to be measured: on its device, in evaluation mode, its parameters fixed."""

    vae: VAE
    history: list[dict[str, float]]
    """one entry an epoch: phase, epoch, training and validation loss per image"""
    path: Path
    """its safetensors file"""


def trained_vae(
    data: ImageData,
    config: VAEConfig | ConvolutionalVAEConfig,
    training: TrainingConfig,
    *,
    device: torch.device | str = "cpu",
    label: str = "VAE",
) -> TrainedVAE:
    """Load the VAE that this data, architecture and recipe give; train it first where it is not in ``data/derived``.

    A tenth of the training images is held out for the validation curve; the test images are not used. A training
    that was killed goes on from its last checkpoint and ends with the weights it would have had.
    """
    configuration = {
        "recipe": _RECIPE,
        "model": config.as_dict(),
        "training": asdict(training),
        "data": data.fingerprint,
    }
    checkpoint = store.derived_directory() / f"vae-{store.key(configuration)}.checkpoint.safetensors"
    loaded_from = []

    def build(path: Path) -> None:
        run = _Run(data, config, training, checkpoint, torch.device(device), label)
        run.finish()
        weights.save(path, run.vae.state_dict(), {**configuration, "history": run.history, "source": data.source})
        checkpoint.unlink(missing_ok=True)

    def load(path: Path) -> tuple[dict[str, Tensor], dict]:
        loaded_from[:] = [path]
        return weights.load(path)

    tensors, metadata = store.cached("vae", configuration, ".safetensors", build=build, load=load)
    vae = VAE(config)
    vae.load_state_dict(tensors)
    return TrainedVAE(vae.to(device).fixed(), metadata["history"], loaded_from[0])


class _Run:
    """One training from its first epoch, or from its checkpoint, to its end."""

    def __init__(
        self,
        data: ImageData,
        config: VAEConfig | ConvolutionalVAEConfig,
        training: TrainingConfig,
        checkpoint: Path,
        device: torch.device,
        label: str,
    ):
        self.training, self.checkpoint, self.device, self.label = training, checkpoint, device, label
        # all draws are made on the CPU, so that every device sees the same
        self.generator = torch.Generator().manual_seed(training.seed)
        self.vae = VAE(config, generator=self.generator).to(device)
        order = torch.randperm(len(data.train_images), generator=self.generator)
        n_validation = max(1, round(_VALIDATION_SHARE * len(order)))
        self.validation = data.train_images[order[:n_validation]].to(device)
        self.images = data.train_images[order[n_validation:]].to(device)
        if len(self.images) == 0:
            raise ValueError(f"data: got {len(order)} training images, expected at least 2")
        self.phases = {
            "elbo": (negative_elbo, training.epochs, [p for n, p in self.vae.named_parameters() if n[:4] != "std."]),
            "variance": (negative_log_likelihood, training.variance_epochs, list(self.vae.std.parameters())),
        }
        self.optimizers = {phase: training.optimizer(parameters) for phase, (_, _, parameters) in self.phases.items()}
        self.history: list[dict[str, float]] = []
        self._resume()

    def finish(self) -> None:
        """Train what is left, with a progress bar and checkpoints."""
        total = sum(epochs for _, epochs, _ in self.phases.values())
        with progress.bar(total=total, initial=len(self.history), description=self.label, unit=" epochs") as bar:
            done = len(self.history)
            for phase, (_, epochs, _) in self.phases.items():
                for epoch in range(epochs):
                    if done > 0:  # in the checkpoint already
                        done -= 1
                        continue
                    entry = self._epoch(phase, epoch)
                    self.history.append(entry)
                    bar.set_postfix_str(
                        f"{phase} {entry['training']:.2f}, validation {entry['validation']:.2f}", refresh=False
                    )
                    bar.update()
                    if len(self.history) == 1 or len(self.history) % _CHECKPOINT_EVERY == 0:
                        self._save()

    def _epoch(self, phase: str, epoch: int) -> dict[str, float]:
        loss_of, epochs, _ = self.phases[phase]
        optimizer = self.optimizers[phase]
        for group in optimizer.param_groups:  # a function of the epoch alone
            group["lr"] = self.training.rate(epoch, epochs)
        self.vae.train(phase == "elbo")  # the variance is trained at the mean as it will be used
        total = torch.zeros((), device=self.device)
        for batch in torch.randperm(len(self.images), generator=self.generator).split(self.training.batch_size):
            loss = loss_of(self.vae, self.images[batch.to(self.device)], self._noise(len(batch)))
            optimizer.zero_grad(set_to_none=True)
            loss.mean().backward()
            optimizer.step()
            total += loss.detach().sum()
        mean = float(total) / len(self.images)
        if not torch.isfinite(torch.tensor(mean)):
            raise ValueError(
                f"training: the loss is {mean} in epoch {epoch + 1} of phase {phase!r}; lower learning_rate"
            )
        self.vae.eval()
        with torch.no_grad():
            validation = float(loss_of(self.vae, self.validation, self._noise(len(self.validation))).mean())
        return {"phase": phase, "epoch": epoch + 1, "training": mean, "validation": validation}

    def _noise(self, n: int) -> Tensor:
        return torch.randn(n, self.vae.config.latent_dim, generator=self.generator).to(self.device)

    def _save(self) -> None:
        tensors = {f"vae.{name}": value for name, value in self.vae.state_dict().items()}
        tensors["generator"] = self.generator.get_state()
        for phase, optimizer in self.optimizers.items():
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{phase}.{index}.{name}": value for name, value in state.items()}
        weights.save(self.checkpoint, tensors, {"history": self.history})

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        try:
            tensors, metadata = weights.load(self.checkpoint)
        except ValueError as error:
            print(f"the checkpoint is damaged ({error}); training starts anew")
            return
        self.history = metadata["history"]
        self.generator.set_state(tensors["generator"])
        self.vae.load_state_dict({name[4:]: value for name, value in tensors.items() if name.startswith("vae.")})
        for phase, optimizer in self.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in tensors.items():
                if name.startswith(f"optimizer.{phase}."):
                    index, field = name.split(".")[2:]
                    state.setdefault(int(index), {})[field] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        print(f"{self.label}: going on after epoch {len(self.history)}")


def final_validation(trained: TrainedVAE) -> float:
    """The negative evidence lower bound per held-out image, up to its constant, after the last epoch."""
    return [entry["validation"] for entry in trained.history if entry["phase"] == "elbo"][-1]
