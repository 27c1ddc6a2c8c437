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

ASF = """:units
  length 0.45
:root
  order TX TY TZ RX RY RZ
  axis XYZ
  position 0 0 0
  orientation 0 0 0
:bonedata
""" + "".join(
    f"begin\nname {name}\ndirection {way}\nlength {length}\naxis 0 0 0 XYZ\n{dof}end\n"
    for name, way, length, dof in (
        ("lhipjoint", "1 0 0", 2, ""),
        ("rhipjoint", "-1 0 0", 2, ""),
        ("lfemur", "0 -1 0", 15, "dof rx\n"),
    )
)
TREE = ":hierarchy\nbegin\nroot lhipjoint rhipjoint\nlhipjoint lfemur\nend\n"


def amc(n):
    """A walk along a circle."""
    return ":DEGREES\n" + "".join(
        f"{k}\nroot {k} 17 {2 * k} 0 {3 * k} 0\nlfemur {30 * math.sin(k / 9)}\n" for k in range(1, n + 1)
    )


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
    contents = {file: ASF + TREE if file.endswith(".asf") else amc(200 + i) for i, file in enumerate(motion.FILES)}
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
    assert data.shape == (4, 3)
    assert data.joints == ("root", "lhipjoint", "rhipjoint", "lfemur")
    assert data.parents == (-1, 0, 0, 1)
    assert data.titles == motion.TITLES
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


def test_skeletons_that_are_not_alike_are_refused(local, files):
    files["49.asf"] = files["49.asf"].replace(b"lfemur", b"rfemur")
    for file in ("49_18.amc", "49_19.amc", "49_20.amc"):
        files[file] = files[file].replace(b"lfemur", b"rfemur")
    local(files)
    with pytest.raises(ValueError, match=r"the joints of 35\.asf and 49\.asf are not the same"):
        motion.load()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [(b"length 15", b"length 60", "m from the root, at most 1.25 m fit"), (b"lhipjoint", b"hip", "has no joints")],
)
def test_a_skeleton_that_makes_no_pose_is_refused(local, files, old, new, said):
    local({file: contents.replace(old, new) for file, contents in files.items()})
    with pytest.raises(ValueError, match=said):
        motion.load()


# --- poses


def test_a_pose_knows_neither_place_nor_heading(local, files, monkeypatch):
    local(files)
    data = motion.load()
    metres = motion.MotionData.metres(data.train_images)
    unit = 0.0254 / 0.45
    root, left, right, knee = metres.unbind(1)
    for place, expected in ((root, 0.0), (left, 2 * unit), (right, -2 * unit)):
        torch.testing.assert_close(place, torch.tensor([expected, 0, 0]).expand_as(place), atol=1e-6, rtol=0)
    # the knee swings in the plane of the way it looks along, by 30 degrees at most
    torch.testing.assert_close((knee - left).norm(dim=-1), torch.full((len(knee),), 15 * unit))
    swing = torch.asin(-knee[:, 2] / (15 * unit)).rad2deg()
    torch.testing.assert_close(knee[:, 0], left[:, 0], atol=1e-6, rtol=0)
    assert 29.9 < float(swing.max()) <= 30.001


def test_a_pose_keeps_ratios_of_distances(generator):
    places = torch.rand(5, 4, 3, generator=generator, dtype=torch.float64) - 0.5
    poses = motion.pose(places, ("root", "lhipjoint", "rhipjoint", "x"))
    assert poses.dtype == torch.float32
    assert poses.shape == (5, 12)
    shown = motion.MotionData.metres(poses.double())
    torch.testing.assert_close(torch.cdist(shown, shown), torch.cdist(places, places), atol=1e-6, rtol=0)
    torch.testing.assert_close(shown[:, :, 1], places[:, :, 1] - places[:, :1, 1], atol=1e-6, rtol=0)
    hips = shown[:, 1] - shown[:, 2]
    assert (hips[:, 0] > 0).all()
    torch.testing.assert_close(hips[:, 2], torch.zeros(5, dtype=torch.float64), atol=1e-6, rtol=0)


def test_blocks_of_a_sixth_of_a_second_are_for_testing(local, files):
    local(files)
    data = motion.load()
    assert torch.unique(data.test_labels).tolist() == [0, 1, 2, 3]
    n = [int((data.test_labels == label).sum()) for label in data.classes]
    assert n == [40, 40, 40, 40]
    # the knee's place along the way it looks: forty frames, then twenty for testing, then eighty before the next ones
    walk = [
        data.metres(images[labels == 0])[:, 3, 2]
        for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels))
    ]
    swing = -15 * 0.0254 / 0.45 * torch.sin((30 * torch.sin(torch.arange(1, 202) / 9)).deg2rad())
    test = torch.cat([torch.arange(40, 60), torch.arange(140, 160)])
    train = torch.tensor([k for k in range(201) if k not in set(test.tolist())])
    for found, frames in zip(walk, (train, test), strict=True):
        torch.testing.assert_close(found, swing[frames], atol=1e-5, rtol=0)


# --- the stand-in


def test_the_stand_in_is_labelled_and_always_the_same():
    data, again = motion.stand_in(), motion.stand_in()
    assert (data.name, data.source, data.substitute) == ("cmu_mocap", "bundled", True)
    assert data.notice == "a synthetic walk, in place of CMU motion capture"
    assert data.titles == ("walking", "balance")
    assert data.fingerprint == again.fingerprint
    assert torch.equal(data.train_images, again.train_images)


def test_the_stand_in_walks_and_balances():
    data = motion.stand_in()
    metres = data.metres(data.train_images)
    parents = torch.tensor(data.parents[1:])
    bones = (metres[:, 1:] - metres[:, parents]).norm(dim=-1)
    torch.testing.assert_close(bones, bones[:1].expand_as(bones), atol=1e-5, rtol=0)
    walking, balance = (metres[data.train_labels == label] for label in (0, 1))
    left, right = (data.joints.index(f"{side}foot") for side in "lr")
    # one foot goes ahead while the other stays behind, and no knee bends forwards
    apart = walking[:, left, 2] - walking[:, right, 2]
    assert float(apart.max()) > 0.5
    assert float(apart.min()) < -0.5
    for side in "lr":
        hip, knee, foot = (data.joints.index(f"{side}{name}") for name in ("hipjoint", "femur", "tibia"))
        thigh, shank = walking[:, knee] - walking[:, hip], walking[:, foot] - walking[:, knee]
        bend = thigh[:, 1] * shank[:, 2] - thigh[:, 2] * shank[:, 1]
        assert float(bend.min()) >= -1e-6
    # balancing, one foot stays on the ground and the other is raised
    assert float(balance[:, right, 1].std()) < 1e-6
    assert float(balance[:, left, 1].max() - balance[:, left, 1].min()) > 0.4


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
    metres = data.metres(data.train_images)
    # a grown person, upright, with the head on top, whose feet reach the ground
    head, toes = (metres[:, data.joints.index(name), 1] for name in ("head", "ltoes"))
    assert 0.4 < float(head.min()) < float(head.max()) < 0.8
    assert float(toes.max()) < -0.5
    bones = (metres[:, 1:] - metres[:, torch.tensor(data.parents[1:])]).norm(dim=-1)
    for own in (bones[data.train_labels == 0], bones[data.train_labels > 0]):
        torch.testing.assert_close(own, own[:1].expand_as(own), atol=1e-5, rtol=0)
