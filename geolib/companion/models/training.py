"""Training that survives being killed, and is never done twice."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geolib.companion.cache import progress, store
from geolib.companion.data.datasets import ImageData
from geolib.companion.models import weights
from geolib.companion.models.networks.isometric import IsometricConfig, IsometricVAE
from geolib.companion.models.networks.learned_variance import LearnedVarianceConfig, LearnedVarianceVAE
from geolib.companion.models.networks.schedule import Phase, TrainingConfig
from geolib.companion.models.networks.vae import VAE, ConvolutionalVAEConfig, VAEConfig

AnyVAEConfig = VAEConfig | ConvolutionalVAEConfig | LearnedVarianceConfig
_KINDS = {LearnedVarianceConfig: LearnedVarianceVAE, IsometricConfig: IsometricVAE}  # others are plain VAEs

_RECIPE = 1  # counts changes of this file that change the weights, so that older caches are not taken for these
_VALIDATION_SHARE = 0.1
_CHECKPOINT_EVERY = 5  # epochs, after the first one


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
    config: AnyVAEConfig,
    training: TrainingConfig,
    *,
    device: torch.device | str = "cpu",
    label: str = "VAE",
) -> TrainedVAE:
    """Load the VAE that this data, architecture and recipe give; train it first where it is not in ``data/derived``.

    A tenth of the training images is held out for the validation curve; the test images are not used. A training
    that was killed goes on from its last checkpoint and ends with the weights it would have had.
    """
    kind = _KINDS.get(type(config), VAE)
    model, history, path = trained_model(kind, data, config, training, device=device, label=label)
    return TrainedVAE(model, history, path)


def trained_model(
    kind: type[nn.Module],
    data: ImageData,
    config: Any,
    training: TrainingConfig,
    *,
    device: torch.device | str = "cpu",
    label: str,
) -> tuple[nn.Module, list[dict[str, float]], Path]:
    """``trained_vae`` for a model of any kind: the model, its history, and its safetensors file."""
    configuration = {
        "recipe": _RECIPE,
        "model": config.as_dict(),
        "training": asdict(training),
        "data": data.fingerprint,
    }
    checkpoint = store.derived_directory() / f"{kind.kind}-{store.key(configuration)}.checkpoint.safetensors"
    loaded_from = []

    def build(path: Path) -> None:
        run = _Run(kind, data, config, training, checkpoint, torch.device(device), label)
        run.finish()
        weights.save(path, run.model.state_dict(), {**configuration, "history": run.history, "source": data.source})
        checkpoint.unlink(missing_ok=True)

    def load(path: Path) -> tuple[dict[str, Tensor], dict]:
        loaded_from[:] = [path]
        tensors, metadata = weights.load_made_for(path, configuration)
        weights.check_shapes(tensors, kind(config).state_dict())
        return tensors, metadata

    tensors, metadata = store.cached(kind.kind, configuration, ".safetensors", build=build, load=load)
    model = kind(config)
    model.load_state_dict(tensors)
    return model.to(device).fixed(), metadata["history"], loaded_from[0]


class _Run:
    """One training from its first epoch, or from its checkpoint, to its end."""

    def __init__(
        self,
        kind: type[nn.Module],
        data: ImageData,
        config: Any,
        training: TrainingConfig,
        checkpoint: Path,
        device: torch.device,
        label: str,
    ):
        self.training, self.checkpoint, self.device, self.label = training, checkpoint, device, label
        # all draws are made on the CPU, so that every device sees the same
        self.generator = torch.Generator().manual_seed(training.seed)
        self.model = kind(config, generator=self.generator).to(device)
        order = torch.randperm(len(data.train_images), generator=self.generator)
        n_validation = max(1, round(_VALIDATION_SHARE * len(order)))
        self.validation = data.train_images[order[:n_validation]].to(device)
        self.images = data.train_images[order[n_validation:]].to(device)
        if len(self.images) == 0:
            raise ValueError(f"data: got {len(order)} training images, expected at least 2")
        self.phases = self.model.phases(training)
        self.optimizers = {
            f"{phase.name}.{k}": training.optimizer(player.parameters)
            for phase in self.phases
            for k, player in enumerate(phase.players)
        }
        self.history: list[dict[str, float]] = []
        self._resume()

    def finish(self) -> None:
        """Train what is left, with a progress bar and checkpoints."""
        total = sum(phase.epochs for phase in self.phases)
        with progress.bar(total=total, initial=len(self.history), description=self.label, unit=" epochs") as bar:
            done = len(self.history)
            for phase in self.phases:
                for epoch in range(phase.epochs):
                    if done > 0:  # in the checkpoint already
                        done -= 1
                        continue
                    entry = self._epoch(phase, epoch)
                    self.history.append(entry)
                    losses = f"{entry['training']:.2f}, validation {entry['validation']:.2f}"
                    bar.set_postfix_str(f"{phase.name} {losses}", refresh=False)
                    bar.update()
                    if len(self.history) == 1 or len(self.history) % _CHECKPOINT_EVERY == 0:
                        self._save()

    def _epoch(self, phase: Phase, epoch: int) -> dict[str, float]:
        optimizers = [self.optimizers[f"{phase.name}.{k}"] for k in range(len(phase.players))]
        for optimizer in optimizers:
            for group in optimizer.param_groups:  # a function of the epoch alone
                group["lr"] = self.training.rate(epoch, phase.epochs)
        if phase.before_epoch is not None:
            phase.before_epoch(self.model, epoch, phase.epochs)
        self.model.train(phase.norms_follow)
        total = torch.zeros((), device=self.device)
        order = self.training.order(len(self.images), self.generator)
        for batch in order.split(self.training.batch_size):
            images = self.images[batch.to(self.device)]
            for player, optimizer in zip(phase.players, optimizers, strict=True):
                loss = player.loss(self.model, images, self._noise(len(batch)))
                optimizer.zero_grad(set_to_none=True)
                loss.mean().backward()
                optimizer.step()
            total += loss.detach().sum()
        mean = float(total) / len(order)
        if not torch.isfinite(torch.tensor(mean)):
            raise ValueError(
                f"training: the loss is {mean} in epoch {epoch + 1} of phase {phase.name!r}; lower learning_rate"
            )
        self.model.eval()
        with torch.no_grad():
            losses = phase.players[-1].loss(self.model, self.validation, self._noise(len(self.validation)))
        return {"phase": phase.name, "epoch": epoch + 1, "training": mean, "validation": float(losses.mean())}

    def _noise(self, n: int) -> Tensor:
        return torch.randn(n, self.model.noise_dim, generator=self.generator).to(self.device)

    def _save(self) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors["generator"] = self.generator.get_state()
        for key, optimizer in self.optimizers.items():
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{key}.{index}.{name}": value for name, value in state.items()}
        weights.save(self.checkpoint, tensors, {"history": self.history})

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        try:
            tensors, metadata = weights.load(self.checkpoint)
            own = {f"model.{name}": value for name, value in self.model.state_dict().items()}
            weights.check_shapes({name: x for name, x in tensors.items() if name.startswith("model.")}, own)
        except ValueError as error:
            print(f"the checkpoint is damaged ({error}); training starts anew")
            return
        self.history = metadata["history"]
        self.generator.set_state(tensors["generator"])
        self.model.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
        for key, optimizer in self.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in tensors.items():
                if name.startswith(f"optimizer.{key}."):
                    index, field = name.split(".")[3:]
                    state.setdefault(int(index), {})[field] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        print(f"{self.label}: going on after epoch {len(self.history)}")


def final_validation(trained: TrainedVAE) -> float:
    """The negative evidence lower bound per held-out image, up to its constant, after the last epoch."""
    return [entry["validation"] for entry in trained.history if entry["phase"] == "elbo"][-1]
