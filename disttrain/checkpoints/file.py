"""One checkpoint as one file: an uncompressed .npz with `about.json` beside the arrays, every byte covered by a digest.

The file holds, in this order: a marker that names the format; a `.npy` member for each array, by name; `about.json`
with the position, the caller's own data and an entry for each array (its offsets and the SHA-256 of its member); the
zip's directory. The zip's comment ends the file, and holds the SHA-256 of everything from `about.json` on. So a reader
that starts at the end trusts nothing that it has not checked, reads each byte once, and can say which member is
damaged. `numpy.load` and `unzip` open the file too.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import IO, Any, BinaryIO, Protocol, cast

import ml_dtypes  # noqa: F401 - makes bfloat16 and its kin known to numpy by name
import numpy as np
import numpy.typing as npt

from disttrain.errors import CheckpointError, NewerFormat

FORMAT = 1
CHUNK_BYTES = 16 << 20  # read and hashed at once; a store fetches this much in parallel pieces
NATIVE_KINDS = "biufcSUmM"  # kinds of the dtypes that .npy describes without pickle

_MARKER_NAME = "disttrain-checkpoint"
_MARKER_TEXT = "disttrain checkpoint format {}\n"
_MARKER = re.compile(rb"disttrain checkpoint format (\d+)\n")
_END_TEXT = "disttrain checkpoint format {} tail {:015d} about {:015d}+{:015d} sha256 "
_END = re.compile(rb"disttrain checkpoint format (\d+) tail (\d{15}) about (\d{15})\+(\d{15}) sha256 ([0-9a-f]{64})\Z")
_ANY_END = re.compile(rb"disttrain checkpoint format (\d+) ")
_DIGEST_CHARS = 64
_FOREIGN = "has correct digests, but not the content that disttrain writes ({})"
_FILE_NAME = re.compile(r"epoch-(\d{5,})-step-(\d{9,})\.ckpt")


@dataclass(frozen=True, order=True)
class Position:
    """How far a run has come: `step` steps of epoch `epoch`, which counts from 1, are done."""

    epoch: int
    step: int


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on: `about` holds what JSON can (so str keys, and no tuples), `arrays` the rest."""

    position: Position
    about: Mapping[str, Any]
    arrays: Mapping[str, npt.NDArray[Any]]


class Readable(Protocol):
    """What a checkpoint is read from: a seekable binary stream, as from `open`, or anything with these methods."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Goes to a byte, counted from the start or (`io.SEEK_END`) the end; returns its offset from the start."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fills as much of the buffer as can be read at once; returns how many bytes."""


def file_name(position: Position) -> str:
    """Returns the name of a position's file, such as `epoch-00003-step-000001200.ckpt`."""
    return f"epoch-{position.epoch:05d}-step-{position.step:09d}.ckpt"


def position_of(name: str) -> Position | None:
    """Returns the position that a file's name gives, or None for any other name."""
    match = _FILE_NAME.fullmatch(name)
    position = Position(int(match[1]), int(match[2])) if match else None
    return position if position is not None and file_name(position) == name else None


def write_checkpoint(checkpoint: Checkpoint, stream: BinaryIO) -> None:
    """Writes a checkpoint to a new binary stream, front to back; equal content gives equal bytes.

    Raises:
        TypeError: for an array of Python objects or of records, and for an `about` that JSON cannot hold.
        ValueError: for a name that a zip cannot hold.
    """
    sink = _Sink(stream)
    with zipfile.ZipFile(cast("IO[bytes]", sink), "w", zipfile.ZIP_STORED) as archive:
        with archive.open(_member(_MARKER_NAME), "w") as member:
            member.write(_MARKER_TEXT.format(FORMAT).encode())
        marker = {"stop": sink.position, "sha256": sink.digest.hexdigest()}
        entries = [_write_array(archive, sink, name, array) for name, array in sorted(checkpoint.arrays.items())]
        content = {"position": asdict(checkpoint.position), "about": checkpoint.about}
        text = json.dumps({**content, "marker": marker, "arrays": entries}, sort_keys=True).encode()
        tail_start = sink.hold()
        with archive.open(_member("about.json"), "w") as member:
            about_start = sink.position
            member.write(text)
        end = _END_TEXT.format(FORMAT, tail_start, about_start, len(text)).encode()
        archive.comment = end + b"0" * _DIGEST_CHARS
    tail = memoryview(sink.held)[:-_DIGEST_CHARS]
    stream.write(tail)
    stream.write(hashlib.sha256(tail).hexdigest().encode())


def read_checkpoint(source: Readable | bytes, where: str) -> Checkpoint:
    """Reads the checkpoint in a binary stream or in bytes, and checks every byte; `where` names it in errors.

    Raises:
        CheckpointError: with the reason, for all that is not one whole checkpoint of a format that this version reads.
    """
    stream = _Source(source, where)
    with foreign_content(stream.where, _FOREIGN):
        content = _read_content(stream)
        marker = content["marker"]
        if hashlib.sha256(stream.read(0, marker["stop"])).hexdigest() != marker["sha256"]:
            raise stream.damaged("the digest of its first bytes does not match")
        arrays = {entry["name"]: _read_array(stream, entry) for entry in content["arrays"]}
        position = Position(int(content["position"]["epoch"]), int(content["position"]["step"]))
        return Checkpoint(position, dict(content["about"]), arrays)


def read_about(source: Readable | bytes, where: str) -> dict[str, Any]:
    """Reads and checks only `about` of a checkpoint, not its arrays; raises what `read_checkpoint` raises."""
    stream = _Source(source, where)
    with foreign_content(stream.where, _FOREIGN):
        return dict(_read_content(stream)["about"])


@contextmanager
def foreign_content(where: str, message: str) -> Iterator[None]:
    """Raises CheckpointError for content with correct digests, but keys, types or sizes that disttrain never writes.

    Args:
        where: names the checkpoint.
        message: says what is wrong with it, with `{}` for the error.
    """
    try:
        yield
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError, MemoryError) as error:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise CheckpointError(f"{where}: {message.format(what)}") from error


class _Sink:
    """The stream that a zip is written to: counts and hashes the bytes, and holds back the end of the file."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.position = 0
        self.held = bytearray()
        self._is_holding = False
        self.digest = hashlib.sha256()

    def write(self, data: bytes | memoryview, /) -> int:
        self.position += len(data)
        if self._is_holding:
            self.held += data
        else:
            self.digest.update(data)
            self._stream.write(data)
        return len(data)

    def flush(self) -> None:
        pass

    def hold(self) -> int:
        """Keeps in `held` what is written from here on; returns the current offset."""
        self._is_holding = True
        return self.position


def _member(name: str) -> zipfile.ZipInfo:
    """Returns a zip member that tells neither a time nor a machine, so that equal content gives equal bytes."""
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, 0o644 << 16
    return info


def _write_array(archive: zipfile.ZipFile, sink: _Sink, name: str, array: npt.NDArray[Any]) -> dict[str, Any]:
    """Writes an array's member; returns its entry in about.json."""
    array = np.asarray(array)
    if not name or not name.isprintable() or "\\" in name:
        raise ValueError(f"{name!r}: cannot be an array's name; use printable characters without a backslash")
    dtype = _kept_dtype(name, array)
    header = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(_stored(dtype)), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(header, fields)
    sink.digest, start = hashlib.sha256(), sink.position
    with archive.open(_member(f"{name}.npy"), "w", force_zip64=array.nbytes >= 1 << 30) as member:
        member.write(header.getvalue())
        data = sink.position
        for chunk in _chunks(_bytes_of(np.ascontiguousarray(array))):
            member.write(chunk)
    return {
        "name": name,
        "dtype": dtype.name if dtype.isbuiltin == 2 else dtype.str,
        "shape": array.shape,
        "start": start,
        "data": data,
        "stop": sink.position,
        "sha256": sink.digest.hexdigest(),
    }


def _kept_dtype(name: str, array: npt.NDArray[Any]) -> np.dtype[Any]:
    dtype = array.dtype
    if dtype.isbuiltin != 2 and (dtype.kind not in NATIVE_KINDS or dtype.hasobject):
        raise TypeError(f"array {name}: dtype {dtype} cannot be kept in a checkpoint")
    return dtype


def _stored(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Returns a dtype that .npy can describe: for bfloat16 and its kin, unsigned integers of the same bits."""
    return np.dtype(f"<u{dtype.itemsize}") if dtype.isbuiltin == 2 else dtype


def _bytes_of(array: npt.NDArray[Any]) -> memoryview:
    """Returns the memory of a C-contiguous array, byte by byte."""
    return array.reshape(-1).view(np.uint8).data if array.nbytes else memoryview(b"")


def _chunks(view: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(view), CHUNK_BYTES):
        yield view[start : start + CHUNK_BYTES]


class _Source:
    """Reads a checkpoint at any offset; short reads and faults become errors that name it."""

    def __init__(self, source: Readable | bytes, where: str) -> None:
        self._stream: Readable = io.BytesIO(source) if isinstance(source, bytes) else source
        self.where = where
        self.size_bytes = self._stream.seek(0, io.SEEK_END)

    def read(self, start: int, stop: int) -> bytes:
        buffer = bytearray(max(min(stop, self.size_bytes) - start, 0))
        self.read_into(start, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, start: int, view: memoryview) -> None:
        self._stream.seek(start)
        while len(view):
            count = self._stream.readinto(view)
            if not count:
                raise self.damaged("it became shorter while it was read")
            view = view[count:]

    def refused(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {reason}")

    def damaged(self, reason: str) -> CheckpointError:
        return self.refused(f"is damaged: {reason}")


def _read_content(stream: _Source) -> dict[str, Any]:
    """Returns the content of about.json, after the digest at the end of the file was checked."""
    if stream.size_bytes == 0:
        raise stream.refused("is empty")
    head, end = stream.read(0, 512), stream.read(max(stream.size_bytes - 512, 0), stream.size_bytes)
    marker, any_end = _MARKER.search(head), _ANY_END.search(end)
    if marker is None and any_end is None:
        raise stream.refused("is not a disttrain checkpoint")
    formats = [int(found[1]) for found in (marker, any_end) if found is not None]
    if min(formats) > FORMAT:
        raise NewerFormat(
            f"{stream.where}: was written by a newer disttrain (format {min(formats)}; this one reads up to {FORMAT}): "
            "upgrade"
        )
    match = _END.search(end)
    if match is None:
        raise stream.refused(f"is torn: its end is missing or damaged ({stream.size_bytes:,} bytes are there)")
    tail_start, about_start, length = (int(number) for number in match.groups()[1:4])
    tail = stream.read(tail_start, stream.size_bytes)
    if hashlib.sha256(tail[:-_DIGEST_CHARS]).hexdigest().encode() != match[5]:
        raise stream.damaged("the digest of about.json and the zip's directory does not match")
    content: dict[str, Any] = json.loads(tail[about_start - tail_start :][:length])
    return content


def _read_array(stream: _Source, entry: Mapping[str, Any]) -> npt.NDArray[Any]:
    dtype = np.dtype(entry["dtype"])
    num_bytes = math.prod(entry["shape"]) * dtype.itemsize
    if dtype.hasobject or not 0 <= entry["data"] <= entry["data"] + num_bytes <= entry["stop"] <= stream.size_bytes:
        raise ValueError(f"array {entry['name']} of {num_bytes} bytes does not lie where it should")
    array = np.empty(entry["shape"], dtype)
    digest = hashlib.sha256(stream.read(entry["start"], entry["data"]))
    position = entry["data"]
    for chunk in _chunks(_bytes_of(array)):
        stream.read_into(position, chunk)
        digest.update(chunk)
        position += len(chunk)
    digest.update(stream.read(position, entry["stop"]))
    if digest.hexdigest() != entry["sha256"]:
        raise stream.damaged(f"the digest of array {entry['name']} does not match")
    return array
