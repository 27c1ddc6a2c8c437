"""asf_amc: forward kinematics against poses worked out by hand, files written and read back, and broken files."""

import itertools
import math
import re
import tracemalloc

import pytest
import torch

from geolib.companion.data import asf_amc
from geolib.companion.data.asf_amc import Skeleton, read_motion, read_skeleton

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("float64")]

METRE = 0.0254  # the length of a unit, in inches, that makes it one metre


def bone(name, direction, length, *, axis="0 0 0 XYZ", dof=""):
    lines = [f"name {name}", f"direction {direction}", f"length {length}", f"axis {axis}"]
    return ["begin", *lines, *([f"dof {dof}"] if dof else []), "end"]


def asf(*bones, tree, units=(f"length {METRE}", "angle deg"), root=(), order="TX TY TZ RX RY RZ"):
    given = {"order": order, "axis": "XYZ", "position": "0 0 0", "orientation": "0 0 0", **dict(root)}
    lines = [":version 1.10", ":name test", ":units", *units, ":root", *(" ".join(pair) for pair in given.items())]
    lines += [":bonedata", *itertools.chain(*bones), ":hierarchy", "begin", *tree, "end"]
    return "\n".join(lines).encode()


def amc(*frames, flags=(":FULLY-SPECIFIED", ":DEGREES")):
    lines = itertools.chain(*([str(number), *frame] for number, frame in enumerate(frames, 1)))
    return "\n".join([*flags, *lines, ""]).encode()


ARM = asf(
    bone("upper", "1 0 0", 2, dof="rz"),
    bone("lower", "1 0 0", 1, dof="rz"),
    bone("stub", "0 1 0", 0.5),
    tree=["root upper stub", "upper lower"],
)
STILL = "root 0 0 0 0 0 0"


def positions(skeleton_file, *frames, **options):
    skeleton = read_skeleton(skeleton_file, "s.asf")
    found = skeleton.positions(read_motion(amc(*frames, **options), "m.amc", skeleton))
    return [dict(zip(skeleton.names, frame, strict=True)) for frame in found]


def close(found, *expected):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)


# --- forward kinematics


def test_an_arm_bends_at_its_joints():
    straight, bent = positions(ARM, [STILL, "upper 0", "lower 0"], [STILL, "lower 90", "upper 90"])
    for place, expected in (("upper", (2, 0, 0)), ("lower", (3, 0, 0)), ("stub", (0, 0.5, 0))):
        close(straight[place], *expected)
    for place, expected in (("upper", (0, 2, 0)), ("lower", (-1, 2, 0)), ("stub", (0, 0.5, 0))):
        close(bent[place], *expected)


def test_the_root_moves_and_turns_everything():
    (found,) = positions(ARM, ["root 1 2 3 0 90 0", "upper 0", "lower 90"])
    close(found["root"], 1, 2, 3)
    close(found["upper"], 1, 2, 1)
    close(found["lower"], 1, 3, 1)
    close(found["stub"], 1, 2.5, 3)


@pytest.mark.parametrize(("order", "expected"), [("RX RY", (0, -1, 0)), ("RY RX", (1, 0, 0))])
def test_rotations_follow_the_order_of_their_channels_about_fixed_axes(order, expected):
    rod = bone("rod", "0 0 1", 1)
    (found,) = positions(asf(rod, tree=["root rod"], order=order), ["root 90 90"])
    close(found["rod"], *expected)
    turning = asf(bone("rod", "0 0 1", 1, dof=order.lower()), tree=["root rod"])
    (found,) = positions(turning, [STILL, "rod 90 90"])
    close(found["rod"], *expected)


def test_a_bone_turns_about_its_own_axes():
    # a quarter turn about z makes its x axis the global y axis, about which z goes to x
    (found,) = positions(
        asf(bone("rod", "0 0 1", 1, axis="0 0 90 XYZ", dof="rx"), tree=["root rod"]), [STILL, "rod 90"]
    )
    close(found["rod"], 1, 0, 0)


# turned about x and then z, its own x axis is the global y; turned about z and then x, it is the global z
@pytest.mark.parametrize(
    ("axis", "rod", "expected"), [("90 0 90 XYZ", "0 0 1", (1, 0, 0)), ("90 0 90 ZYX", "1 0 0", (0, 1, 0))]
)
def test_the_order_of_an_axis(axis, rod, expected):
    (found,) = positions(asf(bone("rod", rod, 1, axis=axis, dof="rx"), tree=["root rod"]), [STILL, "rod 90"])
    close(found["rod"], *expected)


def test_a_root_that_is_set_before_the_motion():
    preset = {"position": "0 1 0", "orientation": "0 0 90"}
    rod = asf(bone("rod", "1 0 0", 2), tree=["root rod"], root=preset.items())
    still, turned = positions(rod, ["root 0 0 0 0 0 0"], ["root 5 0 0 90 0 0"])
    close(still["root"], 0, 1, 0)
    close(still["rod"], 0, 3, 0)
    close(turned["root"], 5, 1, 0)
    close(turned["rod"], 5, 1, 2)


def test_units():
    rod = bone("rod", "1 0 0", 9, dof="rz")
    file = asf(rod, tree=["root rod"], units=("mass 1", "length 0.45", "angle deg"))
    (found,) = positions(file, ["root 0 0 4.5 0 0 0", "rod 90"])
    inch = 0.0254
    close(found["root"], 0, 0, 10 * inch)
    close(found["rod"], 0, 20 * inch, 10 * inch)
    (radians,) = positions(file, ["root 0 0 4.5 0 0 0", f"rod {math.pi / 2}"], flags=(":RADIANS",))
    close(radians["rod"], 0, 20 * inch, 10 * inch)
    # without a flag the motion's angles are in the skeleton's unit
    other = asf(
        bone("rod", "1 0 0", 9, axis=f"0 0 {math.pi / 2} XYZ", dof="rx"),
        tree=["root rod"],
        units=("length 0.45", "angle rad"),
    )
    (found,) = positions(other, ["root 0 0 0 0 0 0", f"rod {math.pi / 2}"], flags=())
    close(found["rod"], 0, 0, -20 * inch)


def test_parents_come_before_children_whatever_the_order_in_the_file():
    names = "abcd"
    bones = [bone(name, "1 0 0", 1) for name in reversed(names)]
    skeleton = read_skeleton(asf(*bones, tree=["c d", "b c", "a b", "root a"]), "s.asf")
    assert skeleton.names == ("root", *names)
    assert skeleton.parents == (-1, 0, 1, 2, 3)
    close(skeleton.positions(torch.zeros(1, 6))[0, -1], 4, 0, 0)


@pytest.mark.parametrize("shape", [(3,), (2, 7), (1, 2, 8)])
def test_a_motion_of_another_shape_is_refused(shape):
    skeleton = read_skeleton(ARM, "s.asf")
    assert skeleton.n_channels == 8
    with pytest.raises(ValueError, match=r"motion: got shape .*, expected \(frames, 8\)"):
        skeleton.positions(torch.zeros(shape))


# --- written and read back


def written(skeleton: Skeleton, orders, angles) -> bytes:
    """The ASF file of a skeleton whose bases are rotations by ``angles`` in degrees in the orders."""
    bones = []
    for j, name in enumerate(skeleton.names[1:], 1):
        length = float(skeleton.offsets[j].norm())
        direction = " ".join(f"{value!r}" for value in (skeleton.offsets[j] / length).tolist())
        axis = " ".join([*(f"{value!r}" for value in angles[j].tolist()), orders[j]])
        bones.append(bone(name, direction, repr(length), axis=axis, dof=" ".join(skeleton.channels[j])))
    tree = [f"{skeleton.names[parent]} {name}" for parent, name in zip(skeleton.parents, skeleton.names, strict=True)]
    return asf(*bones, tree=tree[1:], order=" ".join(skeleton.channels[0]).upper())


def frames_of(skeleton: Skeleton, motion: torch.Tensor):
    """The frames of an AMC file, its bones in another order than the skeleton's."""
    kinds = [kind for names in skeleton.channels for kind in names]
    scale = torch.tensor([1.0 if kind.startswith("t") else 180 / math.pi for kind in kinds])
    for row in motion * scale:
        values = iter(row.tolist())
        named = zip(skeleton.names, skeleton.channels, strict=True)
        lines = [" ".join([name, *(repr(next(values)) for _ in names)]) for name, names in named if names]
        yield lines[::-1]


def a_skeleton(generator):
    """Eleven joints, some that turn about three axes, two or one, and some that do not; and its bases' angles."""
    draw = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    n = 11
    channels = [("tz", "tx", "ty", "rz", "rx", "ry"), ("rx", "ry", "rz"), (), ("rz",), ("ry", "rx"), ("rx",)]
    channels += [(), ("rz", "ry", "rx"), ("rx", "rz"), ("ry",), ("rx", "ry", "rz")]
    orders = ["XYZ", "ZYX", "YXZ", "XZY", "XYZ", "YZX", "ZXY", "XYZ", "ZYX", "XYZ", "XZY"]
    angles = 360 * draw(n, 3) - 180
    angles[0] = 0.0
    bases = []
    for order, own in zip(orders, angles.deg2rad(), strict=True):
        total = torch.eye(3)
        for axis in order.lower():
            total = rotation("xyz".index(axis), float(own["xyz".index(axis)])) @ total
        bases.append(total)
    offsets = draw(n, 3) - 0.5
    offsets[0] = 0.0
    parents = (-1, 0, 0, 1, 1, 3, 4, 5, 6, 7, 7)  # level by level, as a file is read
    skeleton = Skeleton(("root", *"abcdefghij"), parents, offsets, torch.stack(bases), tuple(channels), 1.0, True)
    return skeleton, orders, angles


def rotation(axis, angle):
    """By the exponential of the cross product's matrix, which shares no formula with the reader."""
    generator = torch.zeros(3, 3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    generator[j, i], generator[i, j] = angle, -angle
    return torch.linalg.matrix_exp(generator)


def test_a_file_written_from_angles_gives_the_same_positions(generator):
    skeleton, orders, angles = a_skeleton(generator)
    motion = 4 * torch.rand(7, skeleton.n_channels, generator=generator) - 2
    read = read_skeleton(written(skeleton, orders, angles), "s.asf")
    assert (read.names, read.parents, read.channels) == (skeleton.names, skeleton.parents, skeleton.channels)
    torch.testing.assert_close(read.bases, skeleton.bases)
    back = read_motion(amc(*frames_of(skeleton, motion)), "m.amc", read)
    torch.testing.assert_close(back, motion)
    torch.testing.assert_close(read.positions(back), skeleton.positions(motion))


def test_bones_keep_their_length_and_frames_do_not_meet(generator):
    skeleton, _, _ = a_skeleton(generator)
    motion = 4 * torch.rand(7, skeleton.n_channels, generator=generator) - 2
    found = skeleton.positions(motion)
    bones = found[:, 1:] - found[:, list(skeleton.parents[1:])]
    torch.testing.assert_close(bones.norm(dim=-1), skeleton.offsets[1:].norm(dim=-1).expand(7, -1))
    torch.testing.assert_close(found, torch.cat([skeleton.positions(one) for one in motion.split(1)]))
    torch.testing.assert_close(skeleton.positions(motion.float()), found.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_line_endings_and_comments(newline):
    file = b"# a comment\n" + ARM.replace(b":root", b":documentation\n  any \xe9 :text\n:root")
    skeleton = read_skeleton(file.replace(b"\n", newline.encode()), "s.asf")
    assert skeleton.names == ("root", "upper", "stub", "lower")
    motion = amc([STILL, "upper 1", "lower 2"]).replace(b"\n", newline.encode())
    assert read_motion(b"#!OML:ASF C:\\\xe9\n" + motion, "m.amc", skeleton).shape == (1, 8)


# --- broken files


def replaced(old, new):
    assert old in ARM
    return ARM.replace(old, new, 1)


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        (b"", 0, "ends without a section ':root'"),
        (b"hello", 1, "got 'hello', expected a section"),
        (ARM.decode().encode("utf-16"), 1, "expected a text of ASCII characters"),
        (ARM.decode().encode("utf-8-sig"), 1, "expected a text of ASCII characters"),
        (b"\x00" * 100, 1, "expected a text of ASCII characters"),
        (b"\n" + b"a" * 5000, 2, "longer than 4,096 characters"),
        (replaced(b":root", b":roots"), 6, "got the section ':roots'"),
        (replaced(b":bonedata", b":root\n:bonedata"), 11, "a second section ':root'"),
        (replaced(b"axis XYZ", b"axis XYY"), 8, "axis: got 'XYY', expected an order such as 'XYZ'"),
        (replaced(b"axis XYZ\n", b""), 35, "the section ':root' lacks axis"),
        (replaced(b"order TX TY TZ", b"order TX TX TZ"), 7, "order: got 'TX TX TZ RX RY RZ', expected each at most"),
        (replaced(b"length 0.0254", b"length 0"), 4, "length: got 0, expected at least"),
        (replaced(b"length 0.0254", b"length -1"), 4, "length: got -1, expected at least"),
        (replaced(b"angle deg", b"angle grad"), 5, "angle: got 'grad', expected 'deg' or 'rad'"),
        (replaced(b"length 2", b"length 1e300"), 15, "got '1e300', expected 1 number of size at most 1e+06"),
        (replaced(b"length 2", b"length nan"), 15, "got 'nan', expected 1 number"),
        (replaced(b"length 2", b"length 1_0"), 15, "got '1_0', expected 1 number"),
        (replaced(b"length 2", b"length -2"), 18, "length: got -2, expected none below 0"),
        (replaced(b"direction 1 0 0", b"direction 1 1 0"), 18, "direction: got a vector of length 1.414, expected 1"),
        (replaced(b"direction 1 0 0", b"direction 1 0"), 14, "got '1 0', expected 3 numbers"),
        (replaced(b"dof rz", b"dof rz rz"), 17, "dof: got 'rz rz', expected each at most once of rx ry rz"),
        (replaced(b"dof rz", b"dof l"), 17, "dof: got 'l', expected each at most once of rx ry rz"),
        (replaced(b"dof rz", b"colour red"), 17, "got 'colour', expected a field of a bone"),
        (replaced(b"dof rz", b"length 3"), 17, "a second 'length' in one bone"),
        (replaced(b"name upper", b"name root"), 13, "name: got 'root', expected one word other than 'root'"),
        (replaced(b"name upper", b"name lower"), 25, "a second bone 'lower'"),
        (replaced(b"name upper\n", b""), 17, "the bone lacks name"),
        (replaced(b"upper lower", b"upper lower stub"), 35, "'stub' has a parent already, 'root'"),
        (replaced(b"upper lower", b"upper other"), 35, "got 'other', which is no bone"),
        (replaced(b"\nupper lower", b""), 35, "the hierarchy does not join the root with 'lower'"),
        (replaced(b"root upper stub\n", b"lower upper\nroot stub\n"), 37, "does not join the root with 'lower upper'"),
        (ARM[:-4], 35, "the file ends where an 'end' was expected"),
        (ARM + b"\nend", 37, "'end' out of place"),
        (ARM[: ARM.index(b":bonedata")], 10, "ends without a section"),
    ],
)
def test_a_broken_skeleton_is_refused_with_its_line(file, line, said):
    with pytest.raises(ValueError, match=rf"^folder/s\.asf, line {line}: .*{re.escape(said)}"):
        read_skeleton(file, "folder/s.asf")


def test_a_skeleton_of_too_many_bones_is_refused():
    names = [f"b{i}" for i in range(asf_amc.MOST_BONES + 1)]
    bones = [bone(name, "1 0 0", 1) for name in names]
    allowed = asf(*bones[1:], tree=["root " + " ".join(names[1:])])
    assert len(read_skeleton(allowed, "s.asf").names) == asf_amc.MOST_BONES + 1
    with pytest.raises(ValueError, match=r"line \d+: more than 256 bones"):
        read_skeleton(asf(*bones, tree=["root " + " ".join(names)]), "s.asf")


FRAME = [STILL, "upper 1", "lower 2"]


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        (b"", 0, "ends without a frame"),
        (b":DEGREES\n", 1, "ends without a frame"),
        (b":DEGRES\n1\n", 1, "got the keyword ':degres'"),
        (b"root 0 0 0 0 0 0\n", 1, "'root' before the first frame"),
        (amc(FRAME).decode().encode("utf-16"), 1, "expected a text of ASCII characters"),
        (amc(FRAME, FRAME[:2]), 9, "frame 2 lacks 'lower'"),
        (amc(FRAME[:2], FRAME), 6, "frame 1 lacks 'lower'"),
        (amc([*FRAME, "lower 3"]), 7, "a second 'lower' in frame 1"),
        (amc([STILL, "upper 1 2", "lower 2"]), 5, "got '1 2', expected 1 number"),
        (amc([STILL, "upper", "lower 2"]), 5, "got '', expected 1 number"),
        (amc([STILL, "upper one", "lower 2"]), 5, "got 'one', expected 1 number"),
        (amc([STILL, "upper inf", "lower 2"]), 5, "got 'inf', expected 1 number"),
        (amc([*FRAME, "stub 2"]), 7, "got 'stub 2', expected the number of a frame, or a bone that moves"),
        (amc([*FRAME, ":DEGREES"]), 7, "got ':DEGREES', expected the number of a frame"),
        (amc(FRAME, FRAME).replace(b"\n2\n", b"\n3\n"), 7, "frame 3 follows frame 1"),
        (amc(FRAME, FRAME).replace(b"\n2\n", b"\n1\n"), 7, "frame 1 follows frame 1"),
        (amc(FRAME).replace(b"\n1\n", b"\n99999999999999999999\n"), 3, "expected a number below a thousand million"),
    ],
)
def test_a_broken_motion_is_refused_with_its_line(file, line, said):
    skeleton = read_skeleton(ARM, "s.asf")
    with pytest.raises(ValueError, match=rf"^m\.amc, line {line}: .*{re.escape(said)}"):
        read_motion(file, "m.amc", skeleton)


def test_frames_may_begin_at_any_number():
    skeleton = read_skeleton(ARM, "s.asf")
    later = amc(FRAME, FRAME).replace(b"\n2\n", b"\n8\n").replace(b"\n1\n", b"\n7\n")
    assert read_motion(later, "m.amc", skeleton).shape == (2, 8)


WORDS = [
    b"99999999999999",
    b"-1",
    b"1e999",
    b"nan",
    b"begin",
    b"end",
    b":root",
    b"root",
    b"\xff\xfe",
    b"0x10",
    b"",
    b"\n",
]
"""what a broken file may hold in the place of a word"""


def spoilt(contents: bytes, generator: torch.Generator) -> bytes:
    """A file with one thing wrong, or several."""

    def below(n):
        return int(torch.randint(max(1, n), (), generator=generator))

    way = below(9)
    lines = contents.split(b"\n")
    i, j = below(len(lines)), below(len(lines))
    if way == 0:
        return contents[: below(len(contents))]
    if way == 1:
        lines[i], lines[j] = lines[j], lines[i]
    elif way == 2:
        lines = [lines[k] for k in torch.randperm(len(lines), generator=generator).tolist()]
    elif way == 3:
        del lines[i : i + 1 + below(5)]
    elif way == 4:
        lines[i:i] = lines[j : j + 1 + below(5)]
    elif way == 5:
        words = lines[i].split(b" ")
        words[below(len(words))] = WORDS[below(len(WORDS))]
        lines[i] = b" ".join(words)
    elif way == 6:
        spot, noise = below(len(contents)), torch.randint(256, (1 + below(20),), generator=generator)
        return contents[:spot] + bytes(noise.tolist()) + contents[spot:]
    elif way == 7:
        return contents.decode().encode(["utf-16", "utf-32", "utf-8-sig", "cp500"][below(4)])
    else:
        lines[i] *= 1 + below(3000)
    return b"\n".join(lines)


def test_no_spoilt_file_does_more_than_raise_a_value_error(generator):
    skeleton = read_skeleton(ARM, "s.asf")
    motion = amc(*[FRAME] * 5)
    refused = 0
    for case in range(600):
        reads_skeleton = case % 2 == 0
        file = spoilt(ARM if reads_skeleton else motion, generator)
        if case % 3 == 0:
            file = spoilt(file, generator) if file.isascii() else file
        try:
            found = read_skeleton(file, "f") if reads_skeleton else read_motion(file, "f", skeleton)
        except ValueError as error:
            refused += 1
            assert re.match(r"f, line \d+: \S", str(error)), repr(error)
            assert len(str(error)) < 400
        else:
            values = found.positions(torch.zeros(2, found.n_channels)) if reads_skeleton else found
            assert torch.isfinite(values).all()
    assert 400 < refused < 600


@pytest.mark.parametrize(
    "file",
    [
        b"\n" * 100_000,
        b"# \n" * 40_000,
        b"1 " * 2000 + b"\n" + b"1\n" * 40_000,
        b"1 " * 150_000,
        b"1\nroot 0\n" + b"".join(b"%d\nroot 0\n" % n for n in range(2, 8_000)),
        b":root\n" * 20_000,
        b"x" * 300_000,
    ],
    ids=["blank", "comments", "words", "one line", "frames", "sections", "no line"],
)
@pytest.mark.parametrize("what", ["skeleton", "motion"])
def test_no_file_allocates_more_than_is_said(file, what):
    small = read_skeleton(asf(bone("rod", "1 0 0", 1), tree=["root rod"], order="RX"), "s.asf")
    tracemalloc.start()
    try:
        found = read_skeleton(file, "f") if what == "skeleton" else read_motion(file, "f", small)
    except ValueError:
        found = None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    own = 0 if found is None else found.nbytes  # torch's memory is not traced
    assert peak + own <= 32 * len(file) + 1e6


def test_the_largest_skeleton_allocates_no_more_than_is_said():
    names = [f"b{i}" for i in range(asf_amc.MOST_BONES)]
    file = asf(*(bone(name, "1 0 0", 1) for name in names), tree=["root " + " ".join(names)])
    tracemalloc.start()
    found = read_skeleton(file, "f")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak + found.offsets.nbytes + found.bases.nbytes <= 32 * len(file) + 1e6
