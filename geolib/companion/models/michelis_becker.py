"""What the published code of Michelis & Becker 2021 does where the paper is silent: its variance, its weights."""

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from geolib import PullbackMetric, RBFPrecision
from geolib.companion.cache import store
from geolib.companion.data.download import fetch
from geolib.companion.models import weights
from geolib.companion.models.networks.vae import convolutional_decoder, folded

PRECISION = 4.0
"""precisions on [0, 1] over those on [-1, 1], the units of their code"""
EMPTY = 1e-3
"""the bandwidth of a cluster without points"""
_ROUNDS = 1000  # of k-means, where centres drawn anew never let it settle
FIT_IMAGES = 3000
"""at most, as many as their decoder is trained on here; their code takes all"""
FIT_EPOCHS = 50
FIT_BATCH = 16
FIT_RATE = 1.0
FIT_DECAY = 1e-4

FOLDER = "michelis_becker"
WEIGHTS = "trainedVAE_D.pth"
WEIGHTS_SHA256 = "c645b296d49e65d8e092cab22c0012ae5676e96500e637a292192205f2c8b491"
_WEIGHTS_MD5 = "acde16548e2c015537053ed3d7fecf1d"
_ADDRESS = (
    "https://raw.githubusercontent.com/mmichelis/GenerativeLatentSpace/bb02eaf33a873f85a72ddfabd6797c6741d43829"
    "/TrainedModels/"
)
# the names of their layers, and the places of the same layers in ``convolutional_decoder``
_PLACES = {"lin": 0, "conv.0.ConvTranspose": 2, "conv.0.BatchNorm": 3, "conv.1.ConvTranspose": 5, "conv.1.BatchNorm": 6}
_LAST = {"Xmean.0": 8}


@torch.no_grad()
def fit_precision(
    latents: Tensor,
    squared_errors: Tensor,
    *,
    n_centers: int,
    curvature: float,
    zeta: float,
    seed: int,
    epochs: int = FIT_EPOCHS,
) -> RBFPrecision:
    """Fit the RBF variance as their code does: k-means from random centres, weights by Adam with a step of 1.

    Args:
        latents: encoded data ``(n, d)``.
        squared_errors: of the decoder's mean at the data, ``(n, D)``, for pixels on [0, 1]. There is no floor.
        n_centers: K. Clusters may stay empty.
        curvature: a.
        zeta: the precision far from the data, for pixels on [0, 1].
        seed: of the centres, the initial weights and the batches.
        epochs: over the data.
    """
    generator = torch.Generator().manual_seed(seed)
    points = latents.cpu()
    centers, labels = _lloyd(points, n_centers, generator)
    bandwidths = _bandwidths(points, centers, labels, curvature)
    v = torch.exp(-bandwidths * _distances(points, centers).square())
    # in their units, as a step of 1 is one of theirs
    weights = _weights(v, PRECISION * squared_errors.cpu(), zeta / PRECISION, epochs, generator)
    return RBFPrecision(centers, bandwidths, PRECISION * weights, zeta).to(latents)


def _lloyd(points: Tensor, n_centers: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Centres ``(K, d)`` and each point's own ``(n,)``. A centre without points is drawn anew in every round."""
    low, high = points.amin(0) - 1, points.amax(0) + 1

    def draw(n: int) -> Tensor:
        return low + (high - low) * torch.rand(n, points.shape[-1], generator=generator, dtype=points.dtype)

    centers = draw(n_centers)
    labels = _distances(points, centers).argmin(-1)
    for _ in range(_ROUNDS):
        count = torch.bincount(labels, minlength=n_centers)
        sums = torch.zeros_like(centers).index_add_(0, labels, points)
        drawn = draw(n_centers)
        centers = torch.where((count > 0)[:, None], sums / count.clamp_min(1)[:, None], drawn)
        before, labels = labels, _distances(points, centers).argmin(-1)
        if torch.equal(before, labels):
            break
    return centers, labels


def _distances(points: Tensor, centers: Tensor) -> Tensor:
    """``(n, K)``, by differences, as those near 0 matter."""
    return torch.cdist(points, centers, compute_mode="donot_use_mm_for_euclid_dist")


def _bandwidths(points: Tensor, centers: Tensor, labels: Tensor, curvature: float) -> Tensor:
    count = torch.bincount(labels, minlength=len(centers))
    distance = (points - centers[labels]).norm(dim=-1) + 1e-6  # a cluster of one point has a radius too
    radius = torch.zeros_like(centers[:, 0]).index_add_(0, labels, distance) / count.clamp_min(1)
    return torch.where(count > 0, 0.5 * (curvature * radius) ** -2, EMPTY)


def _weights(v: Tensor, target: Tensor, zeta: float, epochs: int, generator: torch.Generator) -> Tensor:
    """Weights ``(K, D)`` by Adam with weight decay; what becomes negative is set to 0 after every step."""
    bound = v.shape[-1] ** -0.5
    weights = torch.empty(v.shape[-1], target.shape[-1], dtype=v.dtype).uniform_(-bound, bound, generator=generator)
    weights = nn.Parameter(weights.clamp_min_(0))
    weights.grad = torch.empty_like(weights)
    optimizer = torch.optim.Adam([weights], lr=FIT_RATE, weight_decay=FIT_DECAY, fused=True)
    for _ in range(epochs):
        order = torch.randperm(len(v), generator=generator)
        for active, wanted in zip(v[order].split(FIT_BATCH), target[order].split(FIT_BATCH), strict=True):
            inverse = torch.mm(active, weights).add_(zeta).reciprocal_()
            # the gradient of the sum of (beta t - log beta) / 2
            torch.mm(active.mT, torch.sub(wanted, inverse, out=inverse).div_(2), out=weights.grad)
            optimizer.step()
            weights.clamp_(min=0)
    return weights.detach()


def published_metric() -> PullbackMetric:
    """The metric of the decoder and variance that they published: 16 latent dimensions, Eq. 2, pixels on [0, 1].

    ``$GEOLIB_DATA/michelis_becker``, else ``data/raw/michelis_becker``, else a download.

    Raises:
        FileNotFoundError: where the weights are nowhere to be had.
        ValueError: for a file that is not the published one.
    """
    path = _found()
    contents = path.read_bytes()  # read once, so that what is checked is what is used
    found = hashlib.sha256(contents).hexdigest()
    if found != WEIGHTS_SHA256:
        raise ValueError(
            f"{path} is not the published file (sha256 expected {WEIGHTS_SHA256}, found {found}). Replace or remove it"
        )
    return metric_of(contents, str(path))


def _found() -> Path:
    folder = os.environ.get("GEOLIB_DATA")
    if folder and (Path(folder).expanduser() / FOLDER / WEIGHTS).is_file():
        return Path(folder).expanduser() / FOLDER / WEIGHTS
    target = store.raw_directory() / FOLDER
    if os.environ.get("GEOLIB_DATA_SOURCE") == "bundled" and not (target / WEIGHTS).is_file():
        raise FileNotFoundError(f"{WEIGHTS} is not bundled; put it into $GEOLIB_DATA/{FOLDER}/")
    try:
        fetch(target, {WEIGHTS: _WEIGHTS_MD5}, [_ADDRESS])
    except OSError as error:
        raise FileNotFoundError(
            f"{WEIGHTS} is nowhere to be had: {error}. Remedy: put it into $GEOLIB_DATA/{FOLDER}/"
        ) from error
    return target / WEIGHTS


def metric_of(contents: bytes, name: str) -> PullbackMetric:
    """The metric of a state dict of their decoder, from the bytes of its file. Nothing but tensors is unpickled.

    Raises:
        ValueError: for anything else; ``name`` is the file's in the message.
    """
    try:
        state = weights.load_plain(contents)
    except ValueError as error:
        raise ValueError(f"{name}: not a readable file of plain weights ({error})") from error
    try:
        return _metric(state)
    except KeyError as error:
        raise ValueError(
            f"{name}: has no tensor {error.args[0]!r}, so it is not a state dict of their decoder"
        ) from None
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: its tensors are not those of their decoder ({error})") from error


def _metric(state: dict[str, Tensor]) -> PullbackMetric:
    decoder = convolutional_decoder(state["lin.weight"].shape[1], spectral=False)
    with torch.no_grad():
        for name, place in {**_PLACES, **_LAST}.items():
            own = decoder[place].state_dict()
            for part in own:
                own[part] = _normed(state, name) if f"{name}.{part}_orig" in state else state[f"{name}.{part}"]
            decoder[place].load_state_dict(own)
        rbf = RBFPrecision(
            state["rbfNN.centers"],
            state["rbfNN.bandwidth"],
            PRECISION * state["rbfNN.W.weight"].mT.contiguous(),
            PRECISION * float(state["rbfNN.zeta"]),
        )
    mean = folded(decoder.eval().requires_grad_(False))
    return PullbackMetric(mean, rbf)


def _normed(state: dict[str, Tensor], name: str) -> Tensor:
    """A transposed convolution's weight over its spectral norm, of which the file has the singular vectors."""
    weight = state[f"{name}.weight_orig"]
    matrix = weight.transpose(0, 1).flatten(1)
    return weight / (state[f"{name}.weight_u"] @ matrix @ state[f"{name}.weight_v"])
