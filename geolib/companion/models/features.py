"""Feature maps on top of a generator: logistic regression, a layer of VGG-19, and the angles of Bernoulli pixels."""

import hashlib
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from geolib import checks
from geolib.companion.cache import store
from geolib.companion.data.datasets import ImageData
from geolib.companion.models import weights
from geolib.jacobian import Pull

# the two maps of a logistic regression, by the names of its attributes
MAPS = ("probabilities", "logits")

_RECIPE = 1  # counts changes of this file that change the regression's weights


@dataclass(frozen=True)
class Logistic:
    """A multinomial logistic regression of the classes, fitted to training images."""

    logits: nn.Linear
    """images ``(n, D)`` to ``(n, K)``; a constant added to all classes changes no probability, and their mean is 0"""
    probabilities: nn.Sequential
    """images ``(n, D)`` to ``(n, K)``, the softmax of the logits"""
    classes: tuple[int, ...]
    """the labels, in the order of the outputs"""
    strength: float
    """the inverse of the penalty on the weights' squares"""
    test_accuracy: float
    """the share of the test images whose label is the most probable one"""


def fit_logistic(data: ImageData, *, strength: float = 1.0, device: torch.device | str = "cpu") -> Logistic:
    """The logistic regression that these images give, loaded from ``data/derived`` or fitted first.

    Args:
        data: images with labels, of at least two classes.
        strength: the inverse of the penalty on the weights' squares (scikit-learn's ``C``).
        device: where the maps are.

    Raises:
        ValueError: for one class only.
    """
    checks.positive("strength", strength)
    if len(data.classes) < 2:
        raise ValueError(f"data: got the class {data.classes[0]} alone, expected at least two")
    configuration = {"recipe": _RECIPE, "strength": strength, "data": data.fingerprint}

    def build(path: Path) -> None:
        fitted = LogisticRegression(C=strength, tol=1e-3, max_iter=1000)
        fitted.fit(data.train_images.numpy(), data.train_labels.numpy())
        weight, bias = torch.from_numpy(fitted.coef_), torch.from_numpy(fitted.intercept_)
        if len(weight) == 1:  # scikit-learn gives two classes one score, which is the difference of theirs
            weight, bias = (torch.cat([-x, x]) / 2 for x in (weight, bias))
        weights.save(path, {"weight": weight.float(), "bias": bias.float()}, configuration)

    def load(path: Path) -> dict[str, Tensor]:
        return weights.load_made_for(path, configuration)[0]

    tensors = store.cached("logistic", configuration, ".safetensors", build=build, load=load)
    logits = nn.Linear(tensors["weight"].shape[1], len(tensors["weight"]))
    logits.load_state_dict(tensors)
    logits.requires_grad_(False).to(device)
    said = logits(data.test_images.to(device)).argmax(-1).cpu()
    accuracy = float((torch.tensor(data.classes)[said] == data.test_labels).double().mean())
    return Logistic(logits, nn.Sequential(logits, nn.Softmax(dim=-1)), data.classes, strength, accuracy)


def bernoulli_angles(logits: Tensor) -> Tensor:
    r"""The map whose pull-back is the Fisher-Rao metric of independent Bernoulli pixels, :math:`2 \arcsin \sqrt p`.

    Its derivative by the logit is :math:`\sqrt{p (1 - p)}`, which is finite everywhere; that by p is not at 0 and 1,
    where a sigmoid in float32 arrives. So it is written for logits, as
    :math:`\frac{\pi}{2} + 2 \arctan \tanh \frac{a}{4}`, and ``PullbackMetric`` is given the decoder without its last
    sigmoid.

    Args:
        logits: a, any shape.

    Returns:
        angles from 0 to pi, of the same shape.

    Source:
        Bhattacharyya 1943, for one variable the square root that makes its variance constant; Rao 1945, the metric.
    """
    return math.pi / 2 + 2 * torch.atan(torch.tanh(logits / 4))


VGG_VARIABLE = "GEOLIB_VGG"
# torchvision's file: the first digits of its SHA-256 stand in its name
VGG_FILE = "vgg19-dcbb9e9d.pth"
_NAMED_CHECKSUM = re.compile(r"-([0-9a-f]{8,64})\.\w+$")
_BLOCKS = ((1, 2), (2, 2), (4, 4), (8, 4), (8, 4))  # channels in units of the width, and convolutions
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the images that the network was trained on
# activations of the widest layer that are held at once, with their tangents
_ACTIVATIONS_CPU = 2**24
_ACTIVATIONS_GPU = 2**28


class VGG19(nn.Module):
    """VGG-19 up to one of its activations, for grey images: ``(n, h w)`` in [0, 1] to ``(n, K)``.

    Images are given three equal channels, resized and normalised as those that the network was trained on. The
    parameters carry torchvision's names, ``features.N.weight`` and ``features.N.bias``. The map is piecewise affine
    (convolutions, ReLU and maxima), so derivatives along tangents take one pass, and second derivatives are zero.
    Images are taken a few at a time: memory does not grow with their number but for the result itself, and no
    Jacobian is formed.

    Args:
        layer: ``"reluB_C"``, the activation behind the C-th convolution of block B.
        size: pixels of a side that images are resized to; ``"relu5_2"`` has ``size / 16`` a side.
        width: channels of the first layer; 64 in the published network.
        shape: rows and columns of the images.

    Raises:
        ValueError: for a layer that there is not, or images too small for it.

    Source:
        Simonyan & Zisserman 2015, configuration E; as a feature map, Laine 2018 and Michelis & Becker 2021.
    """

    def __init__(
        self, *, layer: str = "relu5_2", size: int = 224, width: int = 64, shape: tuple[int, int] = (28, 28)
    ) -> None:
        super().__init__()
        checks.integer("width", width, at_least=1)
        layers, ends, channels = [], {}, 3
        for block, (wide, depth) in enumerate(_BLOCKS, start=1):
            for place in range(1, depth + 1):
                layers += [nn.Conv2d(channels, wide * width, 3, padding=1), nn.ReLU()]
                channels = wide * width
                ends[f"relu{block}_{place}"] = len(layers)
            layers.append(nn.MaxPool2d(2))
        checks.one_of("layer", layer, tuple(ends))
        # every pooling before the layer halves the side
        checks.integer("size", size, at_least=2 ** (int(layer[4]) - 1))
        self.features = nn.Sequential(*layers[: ends[layer]])
        self.size, self.shape, self.width = size, shape, width
        self.register_buffer("offset", torch.tensor(_MEAN).reshape(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_STD).reshape(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        """The activations ``(n, K)`` of images ``(n, h w)``."""
        self._check(x)
        return torch.cat([self.features(self._prepared(part)).flatten(1) for part in x.split(self._at_once(x, 1))])

    def push_forward(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """The activations of ``x (n, h w)`` and their derivatives along ``tangents (k, n, h w)``: ``(k, n, K)``."""
        self._check(x)
        size = self._at_once(x, 1 + len(tangents))
        parts = [self._pushed(a, t) for a, t in zip(x.split(size), tangents.split(size, dim=1), strict=True)]
        values, derivatives = zip(*parts, strict=True)
        return torch.cat(values), torch.cat(derivatives, dim=1)

    def push_forward_twice(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor, Pull]:
        """``push_forward``, and what takes a cotangent ``(n, K)`` back to the images; it has no second derivatives."""
        return *self.push_forward(x, tangents), lambda cotangent: (self._pulled_back(x.detach(), cotangent), None)

    def _pulled_back(self, x: Tensor, cotangent: Tensor) -> Tensor:
        # reverse mode keeps every activation: one image at a time
        rows = []
        with torch.enable_grad():
            for image, u in zip(x.split(1), cotangent.split(1), strict=True):
                at = image.clone().requires_grad_()
                rows += torch.autograd.grad(self(at), at, u)
        return torch.cat(rows)

    def _pushed(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        k, n, _ = tangents.shape
        value, moved = self._prepared(x), self._resized(tangents.flatten(0, 1)) / self.scale
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                value = layer(value)
                moved = F.conv2d(moved, layer.weight, padding=layer.padding)
            elif isinstance(layer, nn.ReLU):
                moved = (moved.unflatten(0, (k, n)) * (value > 0)).flatten(0, 1)
                value = layer(value)
            else:
                value, index = F.max_pool2d(value, 2, return_indices=True)
                index = index.flatten(2).repeat(k, 1, 1)
                moved = moved.flatten(2).gather(2, index).unflatten(2, value.shape[2:])
        return value.flatten(1), moved.flatten(1).unflatten(0, (k, n))

    def _prepared(self, x: Tensor) -> Tensor:
        return (self._resized(x) - self.offset) / self.scale

    def _resized(self, x: Tensor) -> Tensor:
        images = x.reshape(-1, 1, *self.shape)
        sides = (self.size, self.size)
        return F.interpolate(images, sides, mode="bilinear", align_corners=False).expand(-1, 3, -1, -1)

    def _at_once(self, x: Tensor, copies: int) -> int:
        budget = _ACTIVATIONS_CPU if x.device.type == "cpu" else _ACTIVATIONS_GPU
        return max(1, budget // (self.width * self.size**2 * copies))

    def _check(self, x: Tensor) -> None:
        if x.ndim != 2 or x.shape[-1] != math.prod(self.shape):
            raise ValueError(f"x: got images of shape {tuple(x.shape)}, expected (n, {math.prod(self.shape)})")


@dataclass(frozen=True)
class VGGWeights:
    """The parameters of VGG-19, as found in a file."""

    state: dict[str, Tensor]
    sha256: str
    """of the file"""

    @property
    def verified(self) -> bool:
        """Whether the file is torchvision's, by its checksum."""
        return self.sha256.startswith(_NAMED_CHECKSUM.search(VGG_FILE).group(1))

    @property
    def notice(self) -> str:
        """One sentence for captions; empty for torchvision's file."""
        return "" if self.verified else "VGG-19 weights from a file whose checksum is not torchvision's"

    def network(self, *, device: torch.device | str = "cpu", **options: object) -> VGG19:
        """The network with these parameters; ``options`` are those of ``VGG19``.

        Raises:
            ValueError: naming the first parameter that is missing or has another shape.
        """
        network = VGG19(**options)
        for name, parameter in network.state_dict().items():
            if name not in self.state:
                raise ValueError(f"weights: no {name}, which torchvision's VGG-19 has")
            found = self.state[name]
            if found.shape != parameter.shape:
                raise ValueError(f"weights: {name} has shape {tuple(found.shape)}, expected {tuple(parameter.shape)}")
            checks.finite(f"weights: {name}", found)
            parameter.copy_(found)
        return network.to(device)


def vgg_weights(path: Path | str | None = None) -> VGGWeights | None:
    """What ``path`` or ``$GEOLIB_VGG`` names: a state dict or safetensors file; None where neither names anything.

    A state dict is only ever read as plain weights. A file whose name holds a checksum, as torchvision's do, must have
    it.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a file that is not what its name says, or holds no plain weights.
    """
    named = "path" if path is not None else f"${VGG_VARIABLE}"
    given = path if path is not None else os.environ.get(VGG_VARIABLE)
    if not given:
        return None
    file = Path(given).expanduser()
    if not file.is_file():
        raise FileNotFoundError(
            f"{named}: no file {file}; expected torchvision's {VGG_FILE} or the same as safetensors"
        )
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    said = _NAMED_CHECKSUM.search(file.name)
    if said and not found.startswith(said.group(1)):
        raise ValueError(f"{named}: {file} has SHA-256 {found}, its name says {said.group(1)}; download it again")
    try:
        read = load_safetensors if file.suffix == ".safetensors" else weights.load_plain
        state = read(file.read_bytes())
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{named}: {file} holds no readable weights ({error})") from error
    return VGGWeights(state, found)
