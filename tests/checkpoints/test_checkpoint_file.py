"""A checkpoint's file: what is written comes back exactly; what is not whole is refused, with the reason."""

import io
import re
import subprocess
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as some

from disttrain.checkpoints import file as checkpoint_module
from disttrain.checkpoints.file import (
    Checkpoint,
    Position,
    file_name,
    position_of,
    read_about,
    read_checkpoint,
    write_checkpoint,
)
from disttrain.errors import CheckpointError

DTYPES = st.one_of(
    some.boolean_dtypes(),
    some.integer_dtypes(),
    some.unsigned_integer_dtypes(),
    some.floating_dtypes(),
    some.complex_number_dtypes(),
    some.unicode_string_dtypes(),
    some.byte_string_dtypes(),
    some.datetime64_dtypes(),
)
ARRAYS = some.arrays(DTYPES, some.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
NAMES = st.text(st.characters(categories=["L", "N"], include_characters="/_. "), min_size=1, max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
POSITIONS = st.builds(Position, st.integers(1, 10**7), st.integers(0, 10**12))
CHECKPOINTS = st.builds(
    Checkpoint, POSITIONS, st.dictionaries(st.text(), JSON, max_size=3), st.dictionaries(NAMES, ARRAYS, max_size=4)
)
SMALL = Checkpoint(
    Position(3, 1200),
    {"seed": 7, "rows": [1, 2.5, None], "name": "höuses"},
    {
        "weights/0": np.arange(12, dtype=np.float32).reshape(3, 4),
        "weights/1": np.array(2.5),
        "empty": np.zeros((0, 3), np.int8),
        "random": np.array([2**63, 1], np.uint64),
    },
)


def written(checkpoint):
    stream = io.BytesIO()
    write_checkpoint(checkpoint, stream)
    return stream.getvalue()


def assert_same(found, expected):
    assert (found.position, found.about) == (expected.position, expected.about)
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert found.arrays[name].shape == array.shape
        assert found.arrays[name].tobytes() == array.tobytes()


@settings(max_examples=200)
@given(CHECKPOINTS)
def test_what_is_written_comes_back_exactly(checkpoint):
    content = written(checkpoint)
    assert_same(read_checkpoint(content, "here"), checkpoint)
    assert_same(read_checkpoint(io.BytesIO(content), "here"), checkpoint)
    assert read_about(content, "here") == checkpoint.about


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "int4"])
def test_the_dtypes_of_accelerators_come_back_exactly(name):
    array = np.array([[0, 1, -2], [3, 4, 5]]).astype(np.dtype(name))
    checkpoint = Checkpoint(Position(1, 1), {}, {"a": array, "scalar": array[0, 1].reshape(())})
    content = written(checkpoint)
    found = read_checkpoint(content, "here")
    assert_same(found, checkpoint)
    assert found.arrays["a"].dtype == getattr(ml_dtypes, name)
    with np.load(io.BytesIO(content)) as archive:
        assert archive["a"].tobytes() == array.tobytes()


def test_a_process_that_knows_no_bfloat16_yet_reads_it(tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_bytes(written(Checkpoint(Position(1, 1), {}, {"a": np.ones(3, ml_dtypes.bfloat16)})))
    program = (
        "import sys; from disttrain.checkpoints.file import read_checkpoint\n"
        "print(read_checkpoint(open(sys.argv[1], 'rb'), 'here').arrays['a'].dtype)"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert done.stdout == "bfloat16\n"


def test_numpy_and_zip_open_the_file():
    content = written(SMALL)
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        for name, array in SMALL.arrays.items():
            np.testing.assert_array_equal(archive[name], array, strict=True)
        assert b'"seed": 7' in archive["about.json"]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None


def test_equal_content_gives_equal_bytes():
    array = SMALL.arrays["weights/0"]
    apart = np.zeros((6, 8), np.float32)[::2, ::2]
    apart[:] = array
    for same in (np.asfortranarray(array), apart, array.copy()):
        arrays = dict(reversed({**SMALL.arrays, "weights/0": same}.items()))
        about = dict(reversed(SMALL.about.items()))
        assert written(Checkpoint(SMALL.position, about, arrays)) == written(SMALL)


def test_a_file_cut_short_anywhere_is_refused():
    content = written(SMALL)
    for length in range(len(content)):
        with pytest.raises(CheckpointError, match=r"^here: is (torn: |empty|not a disttrain checkpoint)"):
            read_checkpoint(content[:length], "here")


def test_a_file_longer_than_it_was_is_refused():
    with pytest.raises(CheckpointError, match="is torn"):
        read_checkpoint(written(SMALL) + b"\0", "here")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_checkpoint(b"\0" + written(SMALL), "here")


def test_any_flipped_bit_is_refused():
    content = bytearray(written(SMALL))
    for place in range(len(content)):
        bit = 1 << place % 8
        content[place] ^= bit
        with pytest.raises(CheckpointError):
            read_checkpoint(bytes(content), "here")
        content[place] ^= bit
    assert_same(read_checkpoint(bytes(content), "here"), SMALL)


@settings(max_examples=100)
@given(CHECKPOINTS, st.data())
def test_a_changed_stretch_of_any_checkpoint_is_refused(checkpoint, data):
    content = bytearray(written(checkpoint))
    start = data.draw(st.integers(0, len(content) - 1))
    stretch = data.draw(st.binary(min_size=1, max_size=min(40, len(content) - start)))
    if content[start : start + len(stretch)] == stretch:
        return
    content[start : start + len(stretch)] = stretch
    with pytest.raises(CheckpointError):
        read_checkpoint(bytes(content), "here")


def test_the_damaged_array_is_named():
    content = written(SMALL)
    place = content.index(SMALL.arrays["weights/0"].tobytes())
    with pytest.raises(CheckpointError, match=r"^here: is damaged: the digest of array weights/0 does not match"):
        read_checkpoint(content[:place] + b"\xff" + content[place + 1 :], "here")


FOREIGN = [
    (b"", "is empty"),
    (b"x,y\n1,2\n", "is not a disttrain checkpoint"),
    (b"\0" * 5000, "is not a disttrain checkpoint"),  # a disk that lost its blocks
    (b"PK\x05\x06" + b"\0" * 18, "is not a disttrain checkpoint"),  # an empty zip
]


@pytest.mark.parametrize(("content", "found"), FOREIGN)
def test_a_foreign_file_is_refused(content, found):
    with pytest.raises(CheckpointError, match=f"^here: {found}$"):
        read_checkpoint(content, "here")


def test_a_newer_format_is_refused_with_the_remedy(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "FORMAT", 12)
        content = written(SMALL)
    expected = "was written by a newer disttrain (format 12; this one reads up to 1): upgrade"
    for read in (read_checkpoint, read_about):
        with pytest.raises(CheckpointError, match=f"^here: {re.escape(expected)}$"):
            read(content, "here")


@pytest.mark.parametrize("array", [np.array([{}]), np.zeros(2, [("a", "f4")]), np.zeros(1, "V3")])
def test_what_only_pickle_could_keep_is_not_written(array):
    with pytest.raises(TypeError, match=r"array a: dtype .* cannot be kept"):
        written(Checkpoint(Position(1, 1), {}, {"a": array}))


@pytest.mark.parametrize("name", ["", "a\0b", "a\\b", "a\nb", "\ud800"])
def test_a_name_that_a_zip_would_change_is_not_written(name):
    with pytest.raises(ValueError, match="cannot be an array's name"):
        written(Checkpoint(Position(1, 1), {}, {name: np.zeros(1)}))


def test_a_large_array_is_read_and_written_without_a_copy_of_it():
    """In a process of its own, whose memory may not grow by as much as the array again."""
    program = (
        "import resource, tempfile, numpy as np\n"
        "from disttrain.checkpoints.file import Checkpoint, Position, read_checkpoint, write_checkpoint\n"
        "def used(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "array = np.ones(100_000_000, np.int8); before = used()\n"
        "with tempfile.TemporaryFile(dir='.') as stream:\n"
        "    write_checkpoint(Checkpoint(Position(1, 1), {}, {'a': array}), stream); middle = used()\n"
        "    del array; found = read_checkpoint(stream, 'here').arrays['a']\n"
        "print(found.sum(), middle - before, used() - middle)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    total, writing, reading = map(float, done.stdout.split())
    assert total == 100_000_000
    assert writing < 50
    assert reading < 50


@given(POSITIONS)
def test_a_file_is_named_for_its_position(position):
    assert position_of(file_name(position)) == position


def test_names_sort_as_positions_do():
    assert file_name(Position(3, 1200)) == "epoch-00003-step-000001200.ckpt"
    positions = [Position(1, 0), Position(1, 999_999_999), Position(2, 5), Position(10, 4), Position(99_999, 1)]
    assert sorted(positions) == positions
    assert sorted(map(file_name, positions)) == [file_name(position) for position in positions]


@pytest.mark.parametrize(
    "name",
    [
        "epoch-3-step-1200.ckpt",
        "epoch-000003-step-000001200.ckpt",  # no position is written so
        ".epoch-00003-step-000001200.ckpt.12-ab.part",
        "epoch-00003-step-000001200.ckpt.bak",
        "notes.txt",
    ],
)
def test_other_names_are_no_positions(name):
    assert position_of(name) is None
