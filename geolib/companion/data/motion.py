"""Human poses: walking and balancing from CMU's motion capture database, or a synthetic walk in their place."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from geolib.companion.cache import store
from geolib.companion.data.asf_amc import Skeleton, read_motion, read_skeleton
from geolib.companion.data.datasets import ImageData, checked_source, given_folder, lacks
from geolib.companion.data.download import fetch

NAME = "cmu_mocap"
TITLE = "CMU motion capture"
STAND_IN = f"a synthetic walk, in place of {TITLE}"
SCALE = 0.4
"""of a pose's coordinates per metre: no joint is more than 1.25 m from the root, so that poses fit the unit cube"""
_HIPS = ("lhipjoint", "rhipjoint")
_BLOCK = 20  # frames, a sixth of a second: neighbouring frames are nearly one pose
_TEST_EVERY = 5  # blocks


class Subject(NamedTuple):
    """One subject's skeleton and motions: addresses, each ending in ``/``, and MD5 by file name."""

    mirrors: tuple[str, ...]
    skeleton: str
    md5: dict[str, str]


# The database publishes no checksums: these are of the files as they stand there.
SUBJECTS = (
    Subject(
        ("http://mocap.cs.cmu.edu/subjects/35/",),
        "35.asf",
        {"35.asf": "180a90fe4a2c92ec0c1fa63b8ce7e071", "35_01.amc": "9c949188967d90e94bf24edf1f65ff16"},
    ),
    Subject(
        ("http://mocap.cs.cmu.edu/subjects/49/",),
        "49.asf",
        {
            "49.asf": "939ef8ef0d323b59f7c06f31240524ba",
            "49_18.amc": "33f2c66890031680c46803bc2740fe90",
            "49_19.amc": "26d28da9a3442696c00d6967eef87046",
            "49_20.amc": "316d97654bf71265c84482d746919853",
        },
    ),
)
FILES = tuple(file for subject in SUBJECTS for file in subject.md5)
TITLES = ("walking", "balance 18", "balance 19", "balance 20")
"""of the motions, in the order of their files, by label"""

_announced: set[str] = set()


@dataclass(frozen=True, eq=False, kw_only=True)
class MotionData(ImageData):
    """Poses as "images" with one "pixel" per joint and coordinate, and the tree of their joints.

    Attributes:
        joints: names, the root first.
        parents: the index of each joint's parent; -1 for the root.
        titles: of the motions, by label.
    """

    joints: tuple[str, ...]
    parents: tuple[int, ...]
    titles: tuple[str, ...]

    @staticmethod
    def metres(poses: Tensor) -> Tensor:
        """Joint positions ``(..., J, 3)`` about the root, in metres, of poses ``(..., 3 J)``."""
        return (poses.unflatten(-1, (-1, 3)) - 0.5) / SCALE


def load(*, source: str | None = None) -> MotionData:
    """Poses from the first place that has all six files, or a synthetic walk.

    ``$GEOLIB_DATA/cmu_mocap/``, then ``data/raw/cmu_mocap/``, then a download, then a parametrised stick figure that
    walks and balances. Each frame is one pose, see ``pose``. A fifth of each motion is for testing, in blocks of a
    sixth of a second.

    Args:
        source: as for ``datasets.load``; ``"bundled"`` is the stick figure.

    Returns:
        The poses with their provenance; the label is the motion.

    Raises:
        ValueError: an argument is not one of the allowed values, or a file is broken.
        FileNotFoundError: ``$GEOLIB_DATA`` is not a directory, or the data are nowhere to be had.
    """
    choice = checked_source(source)
    tried: list[str] = []
    data = None if choice == "bundled" else _local(tried) or _downloaded(tried)
    if data is not None:
        return data
    if choice == "full":
        raise FileNotFoundError(
            f"{TITLE} is nowhere to be had: {'; '.join(tried)}. Remedy: put {', '.join(FILES)} into "
            f"$GEOLIB_DATA/{NAME}/, or try again with a network "
            "(or set GEOLIB_DATA_SOURCE=bundled for a synthetic walk)"
        )
    if tried and NAME not in _announced:
        _announced.add(NAME)
        print(f"Using {STAND_IN}: {'; '.join(tried)}")
    return stand_in()


def pose(positions: Tensor, joints: tuple[str, ...]) -> Tensor:
    """Poses ``(F, 3 J)`` in the unit cube of joint positions ``(F, J, 3)`` in metres.

    The root goes to the origin. The heading is the horizontal direction from the right hip to the left one: it is
    turned about the vertical axis, y, to +x, so that every pose looks along +z. Then 1 m becomes ``SCALE`` about 1/2,
    which keeps ratios of distances.

    Args:
        positions: of every joint.
        joints: their names, the root first.

    Raises:
        ValueError: where a joint is too far from the root for the unit cube, or a hip is missing.
    """
    if not set(_HIPS) <= set(joints):
        raise ValueError(f"the skeleton has no joints {' and '.join(_HIPS)}")
    centred = positions - positions[:, :1]
    left, right = (centred[:, joints.index(hip)] for hip in _HIPS)
    x, _, z = (left - right).unbind(-1)
    heading = torch.atan2(z, x).unsqueeze(-1)
    along_x, height, along_z = centred.unbind(-1)
    cos, sin = heading.cos(), heading.sin()
    turned = torch.stack([cos * along_x + sin * along_z, height, cos * along_z - sin * along_x], dim=-1)
    if turned.abs().max() * SCALE > 0.5:
        raise ValueError(f"a joint is {float(turned.abs().max()):.3g} m from the root, at most {0.5 / SCALE:g} m fit")
    return (SCALE * turned + 0.5).flatten(1).float()


def _local(tried: list[str]) -> MotionData | None:
    folder = given_folder(NAME, tried)
    return None if folder is None or lacks(folder, FILES, tried) else _read(folder, "local")


def _downloaded(tried: list[str]) -> MotionData | None:
    folder = store.raw_directory() / NAME
    try:
        for subject in SUBJECTS:
            fetch(folder, subject.md5, subject.mirrors)
    except OSError as error:
        tried.append(f"{folder} is not complete: {error}")
        return None
    return _read(folder, "downloaded")


def _read(folder: Path, source: str) -> MotionData:
    # read once, so that the checksums are those of the very bytes that are used
    contents = {file: (folder / file).read_bytes() for file in FILES}
    poses: list[Tensor] = []
    joints: list[tuple[tuple[str, ...], tuple[int, ...]]] = []
    for subject in SUBJECTS:
        skeleton = read_skeleton(contents[subject.skeleton], str(folder / subject.skeleton))
        joints.append((skeleton.names, skeleton.parents))
        for file in subject.md5:
            if file != subject.skeleton:
                try:
                    motion = read_motion(contents[file], str(folder / file), skeleton)
                    poses.append(pose(skeleton.positions(motion), skeleton.names))
                except ValueError as error:
                    raise ValueError(f"{error}. Replace or remove {folder / file}") from error
    if joints[0] != joints[1]:
        raise ValueError(f"{folder}: the joints of {' and '.join(s.skeleton for s in SUBJECTS)} are not the same")
    sums = {file: hashlib.md5(data, usedforsecurity=False).hexdigest() for file, data in contents.items()}
    verified = sums == {file: md5 for subject in SUBJECTS for file, md5 in subject.md5.items()}
    return _as_data(
        poses,
        joints[0],
        TITLES,
        source=source,
        verified=verified,
        checksums={file: hashlib.sha256(data).hexdigest() for file, data in contents.items()},
        notice="" if verified else f"{TITLE} from local files whose checksums are not the known ones",
    )


def _as_data(poses: list[Tensor], tree: tuple, titles: tuple[str, ...], **provenance) -> MotionData:
    labels = torch.cat([torch.full((len(own),), label) for label, own in enumerate(poses)])
    frames = torch.cat([torch.arange(len(own)) for own in poses])
    points = torch.cat(poses)
    test = frames // _BLOCK % _TEST_EVERY == _TEST_EVERY // 2
    joints, parents = tree
    return MotionData(
        name=NAME,
        train_images=points[~test],
        train_labels=labels[~test],
        test_images=points[test],
        test_labels=labels[test],
        classes=tuple(range(len(poses))),
        shape=(len(joints), 3),
        joints=joints,
        parents=parents,
        titles=titles,
        **provenance,
    )


# --- the stand-in

_LIMBS = {
    "hipjoint": 0.1,
    "femur": 0.42,
    "tibia": 0.42,
    "foot": 0.16,
    "shoulder": 0.18,
    "humerus": 0.29,
    "radius": 0.26,
}
_FRAMES = 600  # of each motion, ten strides
_STRIDES = 10
_SIDES = (("l", 1.0), ("r", -1.0))


def stand_in() -> MotionData:
    """A stick figure that walks with shorter and longer strides, and one that leans forward on one leg.

    Poses have two parameters each: phase and length of the stride; lean, and a sway of the arms. Nothing is drawn.
    """
    skeleton = _stick_figure()
    t = torch.linspace(0, 1, _FRAMES, dtype=torch.float64)
    phase, stride = 2 * math.pi * _STRIDES * t, 0.75 + 0.35 * torch.sin(2 * math.pi * t)
    walk = {
        **{f"{side}femur": -sign * 0.5 * stride * phase.sin() for side, sign in _SIDES},
        **{f"{side}tibia": 0.9 * stride * (sign * phase.cos()).clamp(min=0) ** 2 for side, sign in _SIDES},
        **{f"{side}humerus": sign * 0.5 * stride * phase.sin() for side, sign in _SIDES},
        **{f"{side}radius": torch.full_like(t, -0.4) for side in "lr"},
    }
    lean, sway = torch.sin(math.pi * t) ** 2, torch.sin(6 * math.pi * t)
    balance = {
        "spine": 1.2 * lean,
        "lfemur": 1.3 * lean,
        "ltibia": 0.3 * lean * (1 - lean),
        **{f"{side}humerus": -1.2 * lean + sign * 0.4 * sway for side, sign in _SIDES},
    }
    poses = [pose(skeleton.positions(_motion(skeleton, angles)), skeleton.names) for angles in (walk, balance)]
    total = hashlib.sha256(b"".join(own.numpy().tobytes() for own in poses)).hexdigest()
    return _as_data(
        poses,
        (skeleton.names, skeleton.parents),
        ("walking", "balance"),
        source="bundled",
        verified=True,  # made here: there is nothing published that they could differ from
        checksums={f"{__name__}.stand_in": total},
        notice=STAND_IN,
    )


def _stick_figure() -> Skeleton:
    down, forward = torch.tensor([0.0, -1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    # by name: parent, way from it in metres, whether it turns about the x axis
    bones: dict[str, tuple[str, Tensor, bool]] = {
        "spine": ("root", -0.5 * down, True),
        "head": ("spine", -0.25 * down, False),
    }
    for side, sign in _SIDES:
        outward = torch.tensor([sign, 0.0, 0.0])
        bones |= {
            f"{side}hipjoint": ("root", 0.1 * outward, False),
            f"{side}femur": (f"{side}hipjoint", 0.42 * down, True),
            f"{side}tibia": (f"{side}femur", 0.42 * down, True),
            f"{side}foot": (f"{side}tibia", 0.16 * forward, False),
            f"{side}shoulder": ("spine", 0.18 * outward, False),
            f"{side}humerus": (f"{side}shoulder", 0.29 * down, True),
            f"{side}radius": (f"{side}humerus", 0.26 * down, True),
        }
    names = ("root", *bones)
    return Skeleton(
        names,
        (-1, *(names.index(parent) for parent, _, _ in bones.values())),
        torch.stack([torch.zeros(3), *(offset for _, offset, _ in bones.values())]).double(),
        torch.eye(3, dtype=torch.float64).expand(len(names), 3, 3),
        ((), *(("rx",) if turns else () for _, _, turns in bones.values())),
        metres=1.0,
        in_degrees=False,
    )


def _motion(skeleton: Skeleton, angles: dict[str, Tensor]) -> Tensor:
    still = torch.zeros(_FRAMES, dtype=torch.float64)
    moving = [name for name, channels in zip(skeleton.names, skeleton.channels, strict=True) if channels]
    return torch.stack([angles.get(name, still) for name in moving], dim=-1)
