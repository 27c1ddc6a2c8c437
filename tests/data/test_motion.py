"""motion: where poses come from, how they are normalised, and the stick figure that stands in for them."""

import hashlib
import math
import os
from pathlib import Path

import pytest
import torch

from geolib.companion.data import motion

pytestmark = pytest.mark.smoke

GEOLIB_DATA = os.environ.get("GEOLIB_DATA")  # read before the fixture below clears it

UNIT = 0.0254 / 0.45  # metres


def asf():
    """The stand-in's skeleton as a file, in the database's unit of length."""
    skeleton = motion.stick_figure()
    lines = [":units", "length 0.45", ":root", "order TX TY TZ RX RY RZ", "axis XYZ", "position 0 0 0"]
    lines += ["orientation 0 0 0", ":bonedata"]
    tree = []
    for name, parent, way, dofs in zip(
        skeleton.names, skeleton.parents, skeleton.offsets, skeleton.channels, strict=True
    ):
        if parent >= 0:
            length = float(way.norm())
            direction = " ".join(map(repr, (way / length).tolist()))
            lines += ["begin", f"name {name}", f"direction {direction}", f"length {length / UNIT!r}"]
            lines += ["axis 0 0 0 XYZ", f"dof {' '.join(dofs)}", "end"]
            tree.append(f"{skeleton.names[parent]} {name}")
    return "\n".join([*lines, ":hierarchy", "begin", *tree, "end"])


def amc(n):
    """A left leg that swings, on the way around a circle."""
    skeleton = motion.stick_figure()
    still = [f"{name} 0" for name, dofs in zip(skeleton.names, skeleton.channels, strict=True) if dofs]
    lines = [":DEGREES"]
    for k in range(1, n + 1):
        lines += [str(k), f"root {k} 17 {2 * k} 0 {3 * k} 0", *still]
        lines[lines.index("lfemur 0", len(lines) - len(still))] = f"lfemur {swing(k)}"
    return "\n".join(lines)


def swing(k):
    return 30 * math.sin(k / 9)


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """No test reads or writes the project's own data, and none asks the network."""
    monkeypatch.setenv("GEOLIB_RAW", str(tmp_path / "raw"))
    monkeypatch.delenv("GEOLIB_DATA", raising=False)
    monkeypatch.delenv("GEOLIB_DATA_SOURCE", raising=False)
    monkeypatch.setattr(motion, "_announced", set())
    monkeypatch.setattr(motion, "fetch", no_network)


def no_network(folder, checksums, mirrors):
    raise ConnectionError("no mirror answers")


@pytest.fixture
def files():
    """The six files, small."""
    contents = {file: asf() if file.endswith(".asf") else amc(200 + i) for i, file in enumerate(motion.FILES)}
    return {file: text.encode() for file, text in contents.items()}


@pytest.fixture
def local(monkeypatch, tmp_path):
    """Write files to a folder, and point $GEOLIB_DATA at it."""

    def local(files):
        folder = tmp_path / "mine" / motion.NAME
        write(folder, files)
        monkeypatch.setenv("GEOLIB_DATA", str(folder.parent))
        return folder

    return local


def write(folder: Path, files):
    folder.mkdir(parents=True, exist_ok=True)
    for file, contents in files.items():
        (folder / file).write_bytes(contents)


def publish(monkeypatch, files):
    """Let the checksums of these files be the known ones."""
    known = {file: hashlib.md5(contents).hexdigest() for file, contents in files.items()}
    changed = [subject._replace(md5={file: known[file] for file in subject.md5}) for subject in motion.SUBJECTS]
    monkeypatch.setattr(motion, "SUBJECTS", tuple(changed))


# --- where they come from


def test_local_files_come_first(local, files, monkeypatch):
    publish(monkeypatch, files)
    local(files)
    data = motion.load()
    assert (data.source, data.verified, data.notice, data.substitute) == ("local", True, "", False)
    assert data.shape == (31, 3)
    assert data.classes == (0, 1, 2, 3)
    assert data.checksums == {file: hashlib.sha256(contents).hexdigest() for file, contents in files.items()}
    assert len(data.train_images) + len(data.test_images) == 201 + 203 + 204 + 205
    assert motion.load(source="full").fingerprint == data.fingerprint


def test_files_that_are_not_the_known_ones_are_named(local, files):
    local(files)
    data = motion.load()
    assert (data.source, data.verified, data.substitute) == ("local", False, False)
    assert data.notice == "CMU motion capture from local files whose checksums are not the known ones"


def test_a_folder_that_lacks_files_is_no_place(local, files, capsys):
    del files["49_19.amc"]
    local(files)
    assert motion.load().substitute
    said = capsys.readouterr().out
    assert "Using a synthetic walk, in place of CMU motion capture: $GEOLIB_DATA/cmu_mocap" in said
    assert "lacks 49_19.amc" in said
    assert "no mirror answers" in said
    motion.load()
    assert capsys.readouterr().out == "", "said once"


def test_files_are_downloaded_subject_by_subject(monkeypatch, files, tmp_path):
    publish(monkeypatch, files)
    asked = []

    def fetch(folder, checksums, mirrors):
        asked.append((folder, tuple(checksums), tuple(mirrors)))
        write(folder, {file: files[file] for file in checksums})

    monkeypatch.setattr(motion, "fetch", fetch)
    data = motion.load()
    assert (data.source, data.verified, data.notice) == ("downloaded", True, "")
    folder = tmp_path / "raw" / "cmu_mocap"
    assert asked == [(folder, tuple(subject.md5), subject.mirrors) for subject in motion.SUBJECTS]
    assert all(mirror.endswith("/") for subject in motion.SUBJECTS for mirror in subject.mirrors)


def test_full_does_without_a_substitute():
    with pytest.raises(FileNotFoundError, match=r"nowhere to be had: \$GEOLIB_DATA is not set; .*put 35\.asf, 35_01"):
        motion.load(source="full")


def test_the_source_is_asked_for_by_argument_or_environment(local, files, monkeypatch, capsys):
    local(files)
    assert motion.load(source="bundled").substitute
    monkeypatch.setenv("GEOLIB_DATA_SOURCE", "bundled")
    assert motion.load().substitute
    assert not motion.load(source="auto").substitute
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("GEOLIB_DATA_SOURCE", "all")
    with pytest.raises(ValueError, match=r"\$GEOLIB_DATA_SOURCE must be one of 'auto', 'full', 'bundled'; got 'all'"):
        motion.load()


def test_a_broken_file_is_refused_with_its_line(local, files):
    files["49_20.amc"] = files["49_20.amc"][:-200]
    folder = local(files)
    path = folder / "49_20.amc"
    with pytest.raises(ValueError, match=rf"^{path}, line \d+: .*\. Replace or remove {path}$"):
        motion.load()


def test_another_skeleton_is_refused(local, files):
    files["49.asf"] = files["49.asf"].replace(b"lowerback lfemur", b"root lfemur").replace(b"lhand", b"claw")
    folder = local(files)
    with pytest.raises(
        ValueError, match=rf"^{folder / '49.asf'}: its joints are not those of the database's skeletons"
    ):
        motion.load()


def test_a_giant_is_refused(local, files):
    local({file: contents.replace(b"length 0.45", b"length 0.2") for file, contents in files.items()})
    with pytest.raises(ValueError, match=r"m from the root, at most 1\.25 m fit. Replace or remove .*35_01\.amc"):
        motion.load()


# --- poses


def of(joint, images):
    return motion.metres(images)[:, motion.JOINTS.index(joint)]


def test_a_pose_knows_neither_place_nor_heading(local, files):
    local(files)
    images = motion.load().train_images
    for joint, expected in (("root", (0, 0, 0)), ("lhipjoint", (0.1, -0.1, 0)), ("rfemur", (-0.1, -0.5, 0))):
        place = of(joint, images)
        torch.testing.assert_close(place, torch.tensor(expected, dtype=place.dtype).expand_as(place), atol=1e-5, rtol=0)
    # the knee swings in the plane of the way it looks along
    knee = of("lfemur", images) - of("lhipjoint", images)
    torch.testing.assert_close(knee[:, 0], torch.zeros(len(knee)), atol=1e-5, rtol=0)
    torch.testing.assert_close(knee.norm(dim=-1), torch.full((len(knee),), 0.4), atol=1e-5, rtol=0)
    assert 29.8 < float(torch.asin(-knee[:, 2] / 0.4).rad2deg().max()) <= 30.01


def test_a_pose_keeps_ratios_of_distances(generator):
    places = torch.rand(5, len(motion.JOINTS), 3, generator=generator, dtype=torch.float64) - 0.5
    poses = motion.pose(places)
    assert poses.dtype == torch.float32
    assert poses.shape == (5, 93)
    shown = motion.metres(poses.double())
    torch.testing.assert_close(torch.cdist(shown, shown), torch.cdist(places, places), atol=1e-6, rtol=0)
    torch.testing.assert_close(shown[:, :, 1], places[:, :, 1] - places[:, :1, 1], atol=1e-6, rtol=0)
    left, right = (shown[:, motion.JOINTS.index(f"{side}hipjoint")] for side in "lr")
    assert ((left - right)[:, 0] > 0).all()
    torch.testing.assert_close((left - right)[:, 2], torch.zeros(5, dtype=torch.float64), atol=1e-6, rtol=0)


def test_blocks_of_a_sixth_of_a_second_are_for_testing(local, files):
    local(files)
    data = motion.load()
    assert [int((data.test_labels == label).sum()) for label in data.classes] == [40, 40, 40, 40]
    # forty frames, then twenty for testing, then eighty before the next ones
    test = torch.cat([torch.arange(40, 60), torch.arange(140, 160)])
    train = torch.tensor(sorted(set(range(201)) - set(test.tolist())))
    for images, labels, frames in (
        (data.train_images, data.train_labels, train),
        (data.test_images, data.test_labels, test),
    ):
        found = of("lfemur", images[labels == 0])[:, 2]
        expected = torch.tensor([-0.4 * math.sin(math.radians(swing(k + 1))) for k in frames.tolist()])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


# --- the stand-in


def test_the_stand_in_is_labelled_and_always_the_same():
    data, again = motion.stand_in(), motion.stand_in()
    assert (data.name, data.source, data.substitute) == ("cmu_mocap", "bundled", True)
    assert data.notice == "a synthetic walk, in place of CMU motion capture"
    assert data.classes == tuple(range(len(motion.TITLES)))
    assert data.fingerprint == again.fingerprint
    assert torch.equal(data.train_images, again.train_images)


def test_the_stand_in_walks_and_balances():
    data = motion.stand_in()
    every = motion.metres(data.train_images)
    bones = (every[:, 1:] - every[:, list(motion.PARENTS[1:])]).norm(dim=-1)
    torch.testing.assert_close(bones, bones[:1].expand_as(bones), atol=1e-5, rtol=0)
    walking, balance = (data.train_images[data.train_labels == label] for label in (motion.WALKING, 3))
    # one foot goes ahead while the other stays behind, and no knee bends forwards
    apart = (of("lfoot", walking) - of("rfoot", walking))[:, 2]
    assert float(apart.max()) > 0.5
    assert float(apart.min()) < -0.5
    for side in "lr":
        hip, knee, ankle = (of(f"{side}{name}", walking) for name in ("hipjoint", "femur", "tibia"))
        thigh, shank = knee - hip, ankle - knee
        assert float((thigh[:, 1] * shank[:, 2] - thigh[:, 2] * shank[:, 1]).min()) >= -1e-6
    # balancing, one foot stays where it is and the other is raised
    assert float(of("rfoot", balance)[:, 1].std()) < 1e-6
    left = of("lfoot", balance)[:, 1]
    assert float(left.max() - left.min()) > 0.3


@pytest.mark.skipif(
    not (GEOLIB_DATA and (Path(GEOLIB_DATA) / motion.NAME).is_dir()), reason="no $GEOLIB_DATA/cmu_mocap"
)
def test_the_real_files(monkeypatch):
    monkeypatch.setenv("GEOLIB_DATA", GEOLIB_DATA)
    data = motion.load(source="full")
    assert data.verified
    assert [int((torch.cat([data.train_labels, data.test_labels]) == label).sum()) for label in data.classes] == [
        358,
        1102,
        957,
        898,
    ]
    # a grown person, upright, with the head on top, whose feet reach the ground
    head, toes = (of(joint, data.train_images)[:, 1] for joint in ("head", "ltoes"))
    assert 0.4 < float(head.min()) < float(head.max()) < 0.8
    assert float(toes.max()) < -0.5
    every = motion.metres(data.train_images)
    bones = (every[:, 1:] - every[:, list(motion.PARENTS[1:])]).norm(dim=-1)
    for own in (bones[data.train_labels == motion.WALKING], bones[data.train_labels > motion.WALKING]):
        torch.testing.assert_close(own, own[:1].expand_as(own), atol=1e-5, rtol=0)
