"""Skeletons and motions from Acclaim's ASF and AMC files, and joint positions by forward kinematics.

Source:
    Acclaim's format as VICON's BodyBuilder writes it, and the CMU Graphics Lab's motion capture database with it.
"""

import io
import itertools
import math
from array import array
from dataclasses import dataclass, field

import torch
from torch import Tensor

LONGEST_LINE = 4096  # characters
MOST_BONES = 256
LARGEST = 1e6  # of any number of a file
_METRES_PER_INCH = 0.0254
_AXES = ("x", "y", "z")
_TRANSLATIONS, _ROTATIONS = (tuple(kind + axis for axis in _AXES) for kind in "tr")
_SECTIONS = ("version", "name", "units", "documentation", "root", "bonedata", "hierarchy", "skin")
_UNUSED = ("id", "bodymass", "cofmass")  # fields of a bone


@dataclass(frozen=True, eq=False)
class Skeleton:
    """A tree of J joints: the root, and the far end of every bone, parents before their children.

    Attributes:
        names: of the root and the bones.
        parents: the index of each joint's parent; -1 for the root.
        offsets: ``(J, 3)``, metres, float64. From its parent to the joint in the base pose; the root's own place.
        bases: ``(J, 3, 3)``, float64. The rotation from a bone's own axes, about which it turns, to the global ones.
        channels: per joint what a motion says of it, in order: of ``tx ty tz rx ry rz``. A bone that does not move has
            none, one that moves as a hinge does has one.
        metres: length of the file's unit.
        in_degrees: whether a motion's angles are in degrees where its file does not say.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: Tensor = field(repr=False)
    bases: Tensor = field(repr=False)
    channels: tuple[tuple[str, ...], ...]
    metres: float
    in_degrees: bool

    @property
    def n_channels(self) -> int:
        """Numbers that a motion gives per frame."""
        return sum(map(len, self.channels))

    def positions(self, motion: Tensor) -> Tensor:
        """Joint positions by forward kinematics, all frames at once.

        With M the product of a bone's rotations, the first of its channels applied first, about fixed axes, and B its
        base: R = R_parent B M B^T, and the joint is at p_parent + R offset. The root is at its place plus its
        translation, with R = M B. In float64 it takes about 100 bytes per frame and joint.

        Args:
            motion: ``(F, n_channels)``: metres and radians, joint by joint, in the order of ``channels``.

        Returns:
            ``(F, J, 3)``, metres, in the precision of ``motion``.

        Raises:
            ValueError: for another shape.
        """
        if motion.ndim != 2 or motion.shape[1] != self.n_channels:
            raise ValueError(f"motion: got shape {tuple(motion.shape)}, expected (frames, {self.n_channels})")
        offsets, bases = self.offsets.to(motion), self.bases.to(motion)
        columns = iter(motion.T)
        rotations: list[Tensor] = []
        places: list[Tensor] = []
        for joint, (parent, names) in enumerate(zip(self.parents, self.channels, strict=True)):
            values = {name: next(columns) for name in names}
            turned = torch.eye(3).to(motion).expand(len(motion), 3, 3)
            for name in names:
                if name in _ROTATIONS:
                    turned = _rotation(name[1], values[name]) @ turned
            if parent < 0:
                shift = [values.get(name, torch.zeros_like(motion[:, 0])) for name in _TRANSLATIONS]
                places.append(offsets[joint] + torch.stack(shift, dim=-1))
                rotations.append(turned @ bases[joint])
            else:
                rotations.append(rotations[parent] @ bases[joint] @ turned @ bases[joint].T)
                places.append(places[parent] + rotations[joint] @ offsets[joint])
        return torch.stack(places, dim=1)


def read_skeleton(contents: bytes, name: str) -> Skeleton:
    """The skeleton of an ASF file.

    Reading allocates at most 32 times the file's size and one megabyte.

    Args:
        contents: the file's.
        name: the file's, for errors.

    Raises:
        ValueError: where the file is broken, or asks for what this reader does not know, such as bones that change
            their length; with file and line number.
    """
    return _parsed(_SkeletonParser(), contents, name)


def read_motion(contents: bytes, name: str, skeleton: Skeleton) -> Tensor:
    """The frames of an AMC file: ``(F, n_channels)`` in metres and radians, float64, as ``skeleton.positions`` takes.

    Reading allocates at most 32 times the file's size and one megabyte.

    Args:
        contents: the file's.
        name: the file's, for errors.
        skeleton: of the ASF file that belongs to it.

    Raises:
        ValueError: where the file is broken or does not fit the skeleton; with file and line number.
    """
    return _parsed(_MotionParser(skeleton), contents, name)


def _parsed(parser, contents: bytes, name: str):
    # Latin-1 takes any byte, so that what is no text is refused in its line. One line at a time: a list of them all
    # would take many times their size.
    stream = io.TextIOWrapper(io.BytesIO(contents), encoding="latin-1", newline=None)
    number = 0
    try:
        while line := stream.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise ValueError(f"longer than {LONGEST_LINE:,} characters")
            words = line.split()
            if words and not words[0].startswith("#"):
                parser.take(words)
        return parser.end()
    except ValueError as error:
        raise ValueError(f"{name}, line {number}: {error}") from error


class _SkeletonParser:
    """Takes an ASF file line by line."""

    def __init__(self):
        self.section = ""
        self.seen: set[str] = set()
        self.length, self.in_degrees = 1.0, True
        self.root: dict[str, list[str]] = {}
        self.bones: dict[str, dict[str, list[str]]] = {}
        self.bone: dict[str, list[str]] | None = None  # the one between "begin" and "end"
        self.inside = False  # the hierarchy's "begin" and "end"
        self.children: dict[str, list[str]] = {}
        self.parent_of: dict[str, str] = {}
        self.readers = {
            "units": self._units,
            "root": self._root,
            "bonedata": self._bonedata,
            "hierarchy": self._hierarchy,
        }

    def take(self, words: list[str]) -> None:
        free = self.section in ("documentation", "skin")  # of what there is no use for
        if words[0].startswith(":") and not (free and words[0][1:].lower() not in _SECTIONS):
            self._begin(words)
        elif not free:
            _check_ascii(words)
            if self.section not in self.readers:
                raise ValueError(f"got {_shown(words)}, expected a section such as ':units' or ':root'")
            self.readers[self.section](words)

    def end(self) -> Skeleton:
        for section in ("root", "bonedata", "hierarchy"):
            if section not in self.seen:
                raise ValueError(f"the file ends without a section ':{section}'")
        if self.bone is not None or self.inside:
            raise ValueError("the file ends where an 'end' was expected")
        scale = _METRES_PER_INCH / self.length
        order = self._ordered()
        lacking = sorted({"order", "axis", "position", "orientation"} - set(self.root))
        if lacking:
            raise ValueError(f"the section ':root' lacks {', '.join(lacking)}")
        places = [scale * torch.tensor(_numbers(self.root["position"], 3), dtype=torch.float64)]
        bases = [_base([*self.root["orientation"], *self.root["axis"]], self.in_degrees)]
        channels = [_channels(self.root["order"], _TRANSLATIONS + _ROTATIONS, "order")]
        for name in order[1:]:
            fields = self.bones[name]
            places.append(scale * _offset(fields))
            bases.append(_base(fields["axis"], self.in_degrees))
            channels.append(_channels(fields.get("dof", []), _ROTATIONS, "dof"))
        index = {name: i for i, name in enumerate(order)}
        parents = (-1, *(index[self.parent_of[name]] for name in order[1:]))
        return Skeleton(
            tuple(order), parents, torch.stack(places), torch.stack(bases), tuple(channels), scale, self.in_degrees
        )

    def _begin(self, words: list[str]) -> None:
        _check_ascii(words)
        section = words[0][1:].lower()
        if section not in _SECTIONS:
            raise ValueError(f"got the section {_shown(words[:1])}, expected one of {', '.join(_SECTIONS)}")
        if section in self.seen:
            raise ValueError(f"a second section ':{section}'")
        if self.bone is not None or self.inside:
            raise ValueError(f"':{section}' where an 'end' was expected")
        self.seen.add(section)
        self.section = section

    def _units(self, words: list[str]) -> None:
        if words[0] == "length":
            (length,) = _numbers(words[1:], 1)
            if length < 1 / LARGEST:
                raise ValueError(f"length: got {length:g}, expected at least {1 / LARGEST:g}")
            self.length = length
        elif words[0] == "angle":
            if words[1:] not in (["deg"], ["rad"]):
                raise ValueError(f"angle: got {_shown(words[1:])}, expected 'deg' or 'rad'")
            self.in_degrees = words[1] == "deg"
        elif words[0] != "mass":
            raise ValueError(f"got {_shown(words[:1])}, expected mass, length or angle")

    def _root(self, words: list[str]) -> None:
        key, values = words[0], words[1:]
        if key in ("position", "orientation"):
            _numbers(values, 3)
        elif key == "axis":
            _base(["0", "0", "0", *values], True)
        elif key != "order":
            raise ValueError(f"got {_shown([key])}, expected order, axis, position or orientation")
        elif not _channels(values, _TRANSLATIONS + _ROTATIONS, "order"):
            raise ValueError("order: got nothing, expected some of TX TY TZ RX RY RZ")
        if key in self.root:
            raise ValueError(f"a second {key!r}")
        self.root[key] = values

    def _bonedata(self, words: list[str]) -> None:
        key, values = words[0], words[1:]
        if self.bone is None:
            if words != ["begin"]:
                raise ValueError(f"got {_shown(words)}, expected 'begin'")
            self.bone = {}
        elif words == ["end"]:
            self._end_bone()
        elif key in self.bone:
            raise ValueError(f"a second {key!r} in one bone")
        elif key == "name":
            if len(values) != 1 or values[0] == "root":
                raise ValueError(f"name: got {_shown(values)}, expected one word other than 'root'")
            self.bone[key] = values
        elif key in ("direction", "length"):
            _numbers(values, 3 if key == "direction" else 1)
            self.bone[key] = values
        elif key == "axis":
            _base(values, True)
            self.bone[key] = values
        elif key == "dof":
            _channels(values, _ROTATIONS, key)
            self.bone[key] = values
        elif key == "limits" or (key.startswith("(") and "limits" in self.bone):
            self.bone.setdefault("limits", [])  # not kept: they bound no pose that was measured
        elif key not in _UNUSED:
            raise ValueError(f"got {_shown([key])}, expected a field of a bone, such as 'direction'")

    def _end_bone(self) -> None:
        lacking = [key for key in ("name", "direction", "length", "axis") if key not in self.bone]
        if lacking:
            raise ValueError(f"the bone lacks {', '.join(lacking)}")
        (name,) = self.bone["name"]
        if name in self.bones:
            raise ValueError(f"a second bone {_shown([name])}")
        if len(self.bones) == MOST_BONES:
            raise ValueError(f"more than {MOST_BONES} bones")
        _offset(self.bone)
        self.bones[name] = self.bone
        self.bone = None

    def _hierarchy(self, words: list[str]) -> None:
        if words in (["begin"], ["end"]):
            if self.inside == (words == ["begin"]):
                raise ValueError(f"{words[0]!r} out of place")
            self.inside = not self.inside
            return
        if not self.inside:
            raise ValueError(f"got {_shown(words)}, expected 'begin'")
        parent, *children = words
        for name in words:
            if name not in self.bones and not (name == parent == "root"):
                raise ValueError(f"got {_shown([name])}, which is no bone")
        for child in children:
            if child in self.parent_of:
                raise ValueError(f"{_shown([child])} has a parent already, {_shown([self.parent_of[child]])}")
            self.parent_of[child] = parent
            self.children.setdefault(parent, []).append(child)

    def _ordered(self) -> list[str]:
        order = ["root"]
        for name in order:  # grows on the way
            order += self.children.get(name, [])
        loose = sorted(set(self.bones) - set(order))
        if loose:
            raise ValueError(f"the hierarchy does not join the root with {_shown(loose)}")
        return order


class _MotionParser:
    """Takes an AMC file line by line."""

    def __init__(self, skeleton: Skeleton):
        self.in_degrees = skeleton.in_degrees
        self.places: dict[str, tuple[int, int]] = {}
        ends = itertools.accumulate(map(len, skeleton.channels), initial=0)
        for name, (begin, end) in zip(skeleton.names, itertools.pairwise(ends), strict=True):
            if begin < end:
                self.places[name] = begin, end
        self.kinds = [name for channels in skeleton.channels for name in channels]
        self.metres = skeleton.metres
        self.number: int | None = None
        self.frame = [0.0] * len(self.kinds)
        self.seen: set[str] = set()
        self.values = array("d")

    def take(self, words: list[str]) -> None:
        key = words[0]
        place = self.places.get(key)
        if place is not None:
            self._bone(key, words[1:], *place)
        elif len(words) == 1 and key.isdecimal() and key.isascii():
            self._begin(key)
        elif key.startswith(":") and self.number is None:
            self._flag(key.lower())
        else:
            _check_ascii(words)
            raise ValueError(f"got {_shown(words)}, expected the number of a frame, or a bone that moves")

    def end(self) -> Tensor:
        if self.number is None:
            raise ValueError("the file ends without a frame")
        self._end_frame()
        values = torch.frombuffer(self.values, dtype=torch.float64).view(-1, len(self.kinds))
        angle = math.pi / 180 if self.in_degrees else 1.0
        scale = [self.metres if kind in _TRANSLATIONS else angle for kind in self.kinds]
        return values * torch.tensor(scale, dtype=torch.float64)

    def _flag(self, flag: str) -> None:
        if flag in (":degrees", ":radians"):
            self.in_degrees = flag == ":degrees"
        elif flag not in (":fully-specified", ":samples-per-second"):
            raise ValueError(f"got the keyword {_shown([flag])}, expected ':fully-specified', ':degrees' or ':radians'")

    def _begin(self, key: str) -> None:
        if len(key) > 9:
            raise ValueError(f"frame {_shown([key])}: expected a number below a thousand million")
        number = int(key)
        if self.number is not None:
            if number != self.number + 1:
                raise ValueError(f"frame {number} follows frame {self.number}")
            self._end_frame()
        self.number = number

    def _bone(self, bone: str, words: list[str], begin: int, end: int) -> None:
        if self.number is None:
            raise ValueError(f"{bone!r} before the first frame")
        if bone in self.seen:
            raise ValueError(f"a second {bone!r} in frame {self.number}")
        self.seen.add(bone)
        self.frame[begin:end] = _numbers(words, end - begin)

    def _end_frame(self) -> None:
        if len(self.seen) < len(self.places):
            raise ValueError(f"frame {self.number} lacks {_shown(sorted(set(self.places) - self.seen))}")
        self.values.extend(self.frame)
        self.seen.clear()


def _rotation(axis: str, angle: Tensor) -> Tensor:
    """Rotations ``(..., 3, 3)`` by angles ``(...)``, in radians, about a coordinate axis."""
    i = _AXES.index(axis)
    j, k = (i + 1) % 3, (i + 2) % 3
    matrix = torch.zeros(*angle.shape, 3, 3).to(angle)
    matrix[..., i, i] = 1.0
    matrix[..., j, j] = matrix[..., k, k] = angle.cos()
    matrix[..., k, j] = angle.sin()
    matrix[..., j, k] = -angle.sin()
    return matrix


def _base(words: list[str], in_degrees: bool) -> Tensor:
    """The rotation ``(3, 3)`` of three angles about fixed axes, whose order a last word says, such as ``XYZ``."""
    *angles, order = words or [""]
    if sorted(order.lower()) != list(_AXES):
        raise ValueError(f"axis: got {_shown([order])}, expected an order such as 'XYZ'")
    total = torch.eye(3, dtype=torch.float64)
    turns = dict(zip(_AXES, _numbers(angles, 3), strict=True))
    for axis in order.lower():
        angle = torch.tensor(turns[axis], dtype=torch.float64)
        total = _rotation(axis, angle.deg2rad() if in_degrees else angle) @ total
    return total


def _offset(fields: dict[str, list[str]]) -> Tensor:
    """A bone's direction times its length, in the file's unit: ``(3,)``."""
    direction = torch.tensor(_numbers(fields["direction"], 3), dtype=torch.float64)
    (length,) = _numbers(fields["length"], 1)
    if length < 0:
        raise ValueError(f"length: got {length:g}, expected none below 0")
    if length > 0 and abs(float(direction.norm()) - 1) > 0.01:
        raise ValueError(f"direction: got a vector of length {float(direction.norm()):.4g}, expected 1")
    return length * direction


def _channels(words: list[str], allowed: tuple[str, ...], what: str) -> tuple[str, ...]:
    names = tuple(word.lower() for word in words)
    if len(set(names)) < len(names) or not set(names) <= set(allowed):
        raise ValueError(f"{what}: got {_shown(words)}, expected each at most once of {' '.join(allowed)}")
    return names


def _numbers(words: list[str], n: int) -> list[float]:
    try:
        values = list(map(float, words))
    except ValueError:
        values = []
    # float() takes words such as "1_0" and "nan" too
    if len(values) != n or not all(-LARGEST <= value <= LARGEST for value in values) or "_" in "".join(words):
        what = f"{n} number{'s' if n > 1 else ''} of size at most {LARGEST:g}"
        raise ValueError(f"got {_shown(words)}, expected {what}")
    return values


def _check_ascii(words: list[str]) -> None:
    for word in words:
        if not (word.isascii() and word.isprintable()):
            raise ValueError(f"got {_shown([word])}, expected a text of ASCII characters")


def _shown(words: list[str]) -> str:
    text = " ".join(words)
    return ascii(text if len(text) <= 60 else text[:57] + "...")
