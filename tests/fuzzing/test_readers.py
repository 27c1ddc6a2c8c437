"""Broken files: every reader gives the right data, or an error of the documented kind, in little memory.

Motion capture files have theirs in ``data/test_asf_amc.py``.
"""

import gzip
import json
import struct
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from project import NOTEBOOKS, ROOT
from properties import spoilt

from geolib.companion.cache import store
from geolib.companion.data import datasets
from geolib.companion.data.tables import MOST_IMAGES, read_table
from geolib.companion.models import weights
from geolib.companion.pipeline import numbers, watch
from geolib.companion.pipeline.execute import profile_parameters

pytestmark = [pytest.mark.smoke, pytest.mark.soak]

IMAGES = np.arange(3 * 784, dtype=np.uint8).reshape(3, 784)
LABELS = np.array([3, 0, 9], dtype=np.uint8)


def on_disk(read):
    """A reader of paths as one of bytes."""

    def reader(contents):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "01_file.json"
            path.write_bytes(contents)
            return read(path)

    return reader


def images_of(contents):
    found = datasets._parse(contents, images=True)
    assert found.shape[1:] == (784,)
    return found


def labels_of(contents):
    found = datasets._parse(contents, images=False)
    assert found.ndim == 1
    assert found.max() <= 9
    return found


def table_of(contents, compressed=False):
    images, labels = read_table(contents, compressed=compressed, n_pixels=4, n_classes=10)
    assert images.shape == (len(labels), 4)
    assert images.dtype == labels.dtype == np.uint8
    assert labels.max() <= 9
    return images.tolist(), labels.tolist()


def compressed_table_of(contents):
    return table_of(contents, compressed=True)


def tensors_of(path):
    tensors, metadata = weights.load(path)
    return {name: x.tolist() for name, x in tensors.items()}, metadata


def plain_tensors_of(contents):
    return {name: x.shape for name, x in weights.load_plain(contents).items()}


def page_of(path):
    """What becomes of a figure's record: the page of all numbers."""
    return numbers.table(numbers.collect(path.parent), {})


def parameters_of(path):
    return profile_parameters(path, NOTEBOOKS[0])


def durations_of(path):
    before = watch._record
    watch._record = lambda *_: path
    try:
        return watch.last_durations("01_training", "quick")
    finally:
        watch._record = before


def saved(save):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        save(path)
        return path.read_bytes()


TABLE = b"label,a,b,c,d\n3,0,255,7,8\n0,1,2,3,4\n9,9,8,7,6\n"
STATE = {"0.weight": torch.arange(6.0).reshape(2, 3), "0.bias": torch.ones(2)}
RECORD = {
    "figure": "01_file",
    "numbers": [{"id": "1", "quantity": "a", "unit": "%", "note": "", "value": 0.5, "paper": None}],
    "claims": [{"id": "1", "claim": "c", "verdict": "supported", "criterion": "d", "ours": "e", "paper": None}],
    "data": [{"source": "local", "notice": ""}],
    **{name: "" for name in ("profile", "commit", "device", "threads")},
}
JSON = json.dumps(RECORD).encode()
# a file, what reads it, and whether a checksum tells every change
READERS = {
    "IDX images": (gzip.compress(struct.pack(">IIII", 0x803, 3, 28, 28) + IMAGES.tobytes()), images_of, True),
    "IDX labels": (gzip.compress(struct.pack(">II", 0x801, 3) + LABELS.tobytes()), labels_of, True),
    "table": (TABLE, table_of, False),
    "compressed table": (gzip.compress(TABLE), compressed_table_of, True),
    "weights": (saved(lambda path: weights.save(path, STATE, {"seed": 0})), on_disk(tensors_of), True),
    "weights of others": (saved(lambda path: torch.save(STATE, path)), plain_tensors_of, False),
    "measurements": (JSON, on_disk(store.read_json), False),
    "figure's record": (JSON, on_disk(page_of), False),
    "durations": (b'{"start": 1.5, "setup": 2}', on_disk(durations_of), False),
    "parameters": ((ROOT / "params" / "quick.yaml").read_bytes(), on_disk(parameters_of), False),
}
INSIDE = {name: gzip.decompress(READERS[name][0]) for name in ("IDX images", "IDX labels", "compressed table")}


def same(found, expected):
    return np.array_equal(found, expected) if isinstance(expected, np.ndarray) else found == expected


def read_in_little_memory(read, contents):
    """The data; None where they are refused."""
    tracemalloc.start()
    try:
        return read(contents)
    except ValueError as error:
        assert str(error)
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 64 * len(contents) + 2**22


@pytest.mark.parametrize("name", READERS)
def test_a_broken_file_is_refused_or_read_right(name):
    sound, read, summed = READERS[name]
    expected = read(sound)

    @given(spoilt(sound))
    def tried(contents):
        found = read_in_little_memory(read, contents)
        assert found is None or not summed or same(found, expected)

    tried()


@pytest.mark.parametrize("name", INSIDE)
def test_what_was_broken_before_it_was_compressed_is_refused_or_read(name):
    @given(spoilt(INSIDE[name]))
    def tried(contents):
        read_in_little_memory(READERS[name][1], gzip.compress(contents))

    tried()


# --- what the above found, and files made to hurt


@pytest.mark.parametrize("count", [2**32 - 1, MOST_IMAGES + 1, MOST_IMAGES])
def test_no_memory_is_set_aside_for_images_that_are_only_announced(count):
    announced = gzip.compress(struct.pack(">IIII", 0x803, count, 28, 28) + bytes(784))
    assert read_in_little_memory(images_of, announced) is None
    with pytest.raises(ValueError, match=rf"{count} items announced, (allowed are 1,048,576|so)"):
        images_of(announced)


@pytest.mark.parametrize("line", [b"0", b"0,1,2,3,4\n"])
def test_a_table_that_unpacks_to_far_more_than_it_is_takes_little_memory(line):
    """One line without an end, or as many as there may be and one that is none."""
    bomb = gzip.compress(b"label,a,b,c,d\n" + line * 2**18 + b"x")
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"line 2 is longer than 160 characters|line 262146 has 1 columns"):
        compressed_table_of(bomb)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_lines_are_counted_over_the_thousands_that_are_read_at_once():
    rows = [b"1,2,3,4,5\n"] * 2500
    images, labels = table_of(TABLE + b"".join(rows))
    assert (len(labels), images[-1]) == (2503, [2, 3, 4, 5])
    rows[2100] = b"1,2,3,4,256\n"
    with pytest.raises(ValueError, match="line 2105: pixel 256, allowed are 0 to 255"):
        table_of(TABLE + b"".join(rows))


@pytest.mark.parametrize("name", ["measurements", "figure's record", "parameters"])
def test_values_inside_of_values_without_end_are_refused(name):
    with pytest.raises(ValueError, match=r"01_file\.json: not a"):
        READERS[name][1](b"[" * 100_000)


@pytest.mark.parametrize(
    "text",
    [
        b"seed: 2024-13-45",
        b"seed: !!int x",
        b"seed: !!timestamp x",
        b"seed: " + b"9" * 5000,
        b"seed: \xff",
        b"seed: &a [*a]",
        b"\n".join([b"a0: &a0 [1, 1]", *(b"a%d: &a%d [*a%d, *a%d]" % (n, n, n - 1, n - 1) for n in range(1, 60))]),
    ],
)
def test_parameters_that_are_no_plain_values_are_refused_with_the_file_s_name(text):
    with pytest.raises(ValueError, match=r"01_file\.json: not a YAML file of parameters"):
        READERS["parameters"][1](text)


def test_durations_that_are_none_are_as_if_there_were_none():
    for text in (b"null", b"[1]", b'{"start": "x"}', b"[" * 100_000):
        assert READERS["durations"][1](text) == {}
    assert READERS["durations"][1](b'{"start": 1.5}') == {"start": 1.5}


@pytest.mark.parametrize("part", ["numbers", "claims", "data"])
def test_a_figure_s_record_without_a_part_of_a_record_is_refused(part):
    for bad in (None, "text", [None], [{}], [{**RECORD[part][0], next(iter(RECORD[part][0])): 3.5}]):
        with pytest.raises(ValueError, match=rf"not a figure's record \({part}: expected a list of records with"):
            READERS["figure's record"][1](json.dumps({**RECORD, part: bad}).encode())
