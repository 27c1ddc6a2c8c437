"""Human poses: walking and balancing from CMU's motion capture database, or a synthetic walk in their place."""

import hashlib
import math
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
_CHUNK = 1024  # frames whose bones are turned at once: each takes a hundred times the shortest text of a frame
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
TITLES = ("walking", "balance 1", "balance 2", "balance 3")
"""of the motions, in the order of their files, by label"""
WALKING = 0
_TREE = {
    **{f"{side}hipjoint": "root" for side in "lr"},
    "lowerback": "root",
    **{f"{side}femur": f"{side}hipjoint" for side in "lr"},
    "upperback": "lowerback",
    **{f"{side}tibia": f"{side}femur" for side in "lr"},
    "thorax": "upperback",
    **{f"{side}foot": f"{side}tibia" for side in "lr"},
    "lowerneck": "thorax",
    **{f"{side}clavicle": "thorax" for side in "lr"},
    **{f"{side}toes": f"{side}foot" for side in "lr"},
    "upperneck": "lowerneck",
    **{f"{side}humerus": f"{side}clavicle" for side in "lr"},
    "head": "upperneck",
    **{f"{side}radius": f"{side}humerus" for side in "lr"},
    **{f"{side}wrist": f"{side}radius" for side in "lr"},
    **{f"{side}{name}": f"{side}wrist" for side in "lr" for name in ("hand", "thumb")},
    **{f"{side}fingers": f"{side}hand" for side in "lr"},
}
JOINTS = ("root", *_TREE)
"""of the database's skeletons, parents before their children"""
PARENTS = (-1, *(JOINTS.index(parent) for parent in _TREE.values()))
"""the index of each joint's parent"""

_announced: set[str] = set()


def metres(poses: Tensor) -> Tensor:
    """Joint positions ``(..., J, 3)`` about the root, in metres, of poses ``(..., 3 J)``."""
    return (poses.unflatten(-1, (-1, 3)) - 0.5) / SCALE


def load(*, source: str | None = None) -> ImageData:
    """Poses from the first place that has all six files, or a synthetic walk: 31 joints with three coordinates each.

    ``$GEOLIB_DATA/cmu_mocap/``, then ``data/raw/cmu_mocap/``, then a download, then a parametrised stick figure that
    walks and balances. Each frame is one pose, see ``pose``. A fifth of each motion is for testing, in blocks of a
    sixth of a second. The files take at most 128 times their size in memory, and 64 megabytes.

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


def pose(positions: Tensor) -> Tensor:
    """Poses ``(F, 3 J)`` in the unit cube of joint positions ``(F, J, 3)`` in metres, in the order of ``JOINTS``.

    The root goes to the origin. The heading is the horizontal direction from the right hip to the left one: it is
    turned about the vertical axis, y, to +x, so that every pose looks along +z. Then 1 m becomes ``SCALE`` about 1/2,
    which keeps ratios of distances.

    Raises:
        ValueError: where a joint is too far from the root for the unit cube.
    """
    centred = positions - positions[:, :1]
    left, right = (centred[:, JOINTS.index(hip)] for hip in _HIPS)
    x, _, z = (left - right).unbind(-1)
    heading = torch.atan2(z, x).unsqueeze(-1)
    along_x, height, along_z = centred.unbind(-1)
    cos, sin = heading.cos(), heading.sin()
    turned = torch.stack([cos * along_x + sin * along_z, height, cos * along_z - sin * along_x], dim=-1)
    if turned.abs().max() * SCALE > 0.5:
        raise ValueError(f"a joint is {float(turned.abs().max()):.3g} m from the root, at most {0.5 / SCALE:g} m fit")
    return (SCALE * turned + 0.5).flatten(1).float()


def _local(tried: list[str]) -> ImageData | None:
    folder = given_folder(NAME, tried)
    return None if folder is None or lacks(folder, FILES, tried) else _read(folder, "local")


def _downloaded(tried: list[str]) -> ImageData | None:
    folder = store.raw_directory() / NAME
    try:
        for subject in SUBJECTS:
            fetch(folder, subject.md5, subject.mirrors)
    except OSError as error:
        tried.append(f"{folder} is not complete: {error}")
        return None
    return _read(folder, "downloaded")


def _read(folder: Path, source: str) -> ImageData:
    # read once, so that the checksums are those of the very bytes that are used
    contents = {file: (folder / file).read_bytes() for file in FILES}
    poses = []
    for subject in SUBJECTS:
        path = folder / subject.skeleton
        skeleton = read_skeleton(contents[subject.skeleton], str(path))
        own = dict(zip(skeleton.names, skeleton.parents, strict=True))
        if {name: skeleton.names[parent] for name, parent in own.items() if parent >= 0} != _TREE:
            raise ValueError(f"{path}: its joints are not those of the database's skeletons. Replace or remove it")
        order = [skeleton.names.index(name) for name in JOINTS]
        for file in subject.md5:
            if file != subject.skeleton:
                try:
                    motion = read_motion(contents[file], str(folder / file), skeleton)
                    parts = motion.split(_CHUNK)
                    poses.append(torch.cat([pose(skeleton.positions(part)[:, order]) for part in parts]))
                except ValueError as error:
                    raise ValueError(f"{error}. Replace or remove {folder / file}") from error
    sums = {file: hashlib.md5(data, usedforsecurity=False).hexdigest() for file, data in contents.items()}
    verified = sums == {file: md5 for subject in SUBJECTS for file, md5 in subject.md5.items()}
    return _as_data(
        poses,
        source=source,
        verified=verified,
        checksums={file: hashlib.sha256(data).hexdigest() for file, data in contents.items()},
        notice="" if verified else f"{TITLE} from local files whose checksums are not the known ones",
    )


def _as_data(poses: list[Tensor], **provenance) -> ImageData:
    labels = torch.cat([torch.full((len(own),), label) for label, own in enumerate(poses)])
    frames = torch.cat([torch.arange(len(own)) for own in poses])
    points = torch.cat(poses)
    test = frames // _BLOCK % _TEST_EVERY == _TEST_EVERY // 2
    return ImageData(
        name=NAME,
        train_images=points[~test],
        train_labels=labels[~test],
        test_images=points[test],
        test_labels=labels[test],
        classes=tuple(range(len(poses))),
        shape=(len(JOINTS), 3),
        **provenance,
    )


# --- the stand-in

_FRAMES = 400  # of each motion
_STRIDES = 6
_SIDES = (("l", 1.0), ("r", -1.0))
_TURNING = ("lowerback", "femur", "tibia", "humerus", "radius")  # about the x axis
# ways to a joint from its parent, in metres; on the right side x is mirrored
_OFFSETS = {
    "hipjoint": (0.1, -0.1, 0.0),
    "femur": (0.0, -0.4, 0.0),
    "tibia": (0.0, -0.4, 0.0),
    "foot": (0.0, -0.05, 0.12),
    "toes": (0.0, 0.0, 0.06),
    "lowerback": (0.0, 0.12, 0.0),
    "upperback": (0.0, 0.12, 0.0),
    "thorax": (0.0, 0.12, 0.0),
    "lowerneck": (0.0, 0.08, 0.0),
    "upperneck": (0.0, 0.08, 0.0),
    "head": (0.0, 0.1, 0.0),
    "clavicle": (0.18, 0.08, 0.0),
    "humerus": (0.0, -0.28, 0.0),
    "radius": (0.0, -0.2, 0.0),
    "wrist": (0.0, -0.06, 0.0),
    "hand": (0.0, -0.05, 0.0),
    "thumb": (0.0, -0.03, 0.03),
    "fingers": (0.0, -0.04, 0.0),
}


def stand_in() -> ImageData:
    """A stick figure that walks with shorter and longer strides, and three that lean forward on one leg.

    Poses of the walk have two parameters, phase and length of the stride; those of a balance have two, too, the lean
    and the swing of the arms. Nothing is drawn.
    """
    skeleton = stick_figure()
    t = torch.linspace(0, 1, _FRAMES, dtype=torch.float64)
    motions = [_walk(t), *(_balance(t, far) for far in (0.8, 1.0, 1.2))]
    poses = [pose(skeleton.positions(_motion(skeleton, angles))) for angles in motions]
    total = hashlib.sha256(b"".join(own.numpy().tobytes() for own in poses)).hexdigest()
    return _as_data(
        poses,
        source="bundled",
        verified=True,  # made here: there is nothing published that they could differ from
        checksums={f"{__name__}.stand_in": total},
        notice=STAND_IN,
    )


def _walk(t: Tensor) -> dict[str, Tensor]:
    phase, stride = 2 * math.pi * _STRIDES * t, 0.75 + 0.35 * torch.sin(2 * math.pi * t)
    angles = {}
    for side, sign in _SIDES:
        swing = 0.5 * sign * stride * phase.sin()
        bend = 0.9 * stride * (sign * phase.cos()).clamp(min=0).square()
        still = torch.full_like(t, -0.4)
        angles |= {f"{side}femur": -swing, f"{side}tibia": bend, f"{side}humerus": swing, f"{side}radius": still}
    return angles


def _balance(t: Tensor, far: float) -> dict[str, Tensor]:
    lean, swing = far * torch.sin(math.pi * t).square(), 0.4 * torch.sin(6 * math.pi * t)
    arms = {f"{side}humerus": -lean + sign * swing for side, sign in _SIDES}
    return {"lowerback": lean, "lfemur": lean, "ltibia": 0.5 * lean, **arms}


def stick_figure() -> Skeleton:
    """The skeleton of the stand-in: the joints of the database's, with simple proportions and few that turn."""
    offsets, channels = [(0.0, 0.0, 0.0)], [()]
    for name in _TREE:
        sided = name not in _OFFSETS
        x, y, z = _OFFSETS[name[1:] if sided else name]
        offsets.append((-x if sided and name[0] == "r" else x, y, z))
        channels.append(("rx",) if (name[1:] if sided else name) in _TURNING else ())
    return Skeleton(
        JOINTS,
        PARENTS,
        torch.tensor(offsets, dtype=torch.float64),
        torch.eye(3, dtype=torch.float64).expand(len(JOINTS), 3, 3),
        tuple(channels),
        metres=1.0,
        in_degrees=False,
    )


def _motion(skeleton: Skeleton, angles: dict[str, Tensor]) -> Tensor:
    still = torch.zeros(_FRAMES, dtype=torch.float64)
    moving = [name for name, channels in zip(skeleton.names, skeleton.channels, strict=True) if channels]
    return torch.stack([angles.get(name, still) for name in moving], dim=-1)
