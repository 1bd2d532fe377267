"""Opens a trained model: that of a run's directory or of a `.keras` file, local or in a store, or a checkpoint's."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import keras

from disttrain.checkpoints.file import position_of
from disttrain.errors import DataError, UsageError
from disttrain.run.directory import MODEL
from disttrain.scoring.checkpointed import model_of_checkpoint
from disttrain.storage.local import local_path
from disttrain.storage.open import open_reader, stat
from disttrain.training.description import Description
from disttrain.training.raw_model import CORE
from disttrain.training.user_code import user_function

_COPY_BYTES = 16 << 20


@dataclass(frozen=True)
class Trained:
    """A trained model, as it was trained: `core` takes what `description` says, and gives what its loss compares.

    `fingerprint` differs when the file may differ.
    """

    url: str
    fingerprint: str
    core: keras.Model
    description: Description


@dataclass(frozen=True)
class ModelFile:
    """A model's file, or a checkpoint, of this machine or copied to it: `url` is as the user named it."""

    url: str
    file: str
    path: Path

    def digest(self) -> str:
        """Returns the SHA-256 of the file."""
        digest = hashlib.sha256()
        with self.path.open("rb") as stream:
            while block := stream.read(_COPY_BYTES):
                digest.update(block)
        return digest.hexdigest()

    def open(self, *, trust: bool) -> Trained:
        """Opens the model.

        Args:
            trust: whether the model may hold code, which runs when it is loaded.

        Raises:
            UsageError: if it holds code and is not trusted.
            DataError: if the file is damaged, or disttrain did not write it.
            StorageError: if it cannot be read.
        """
        if position_of(self.file.rpartition("/")[2]) is not None:
            core, description = model_of_checkpoint(self.url, trust=trust)
            return Trained(self.url, stat(self.url).fingerprint, core, description)
        return _loaded(self.url, stat(self.file).fingerprint, self.path, trust=trust)


@contextmanager
def model_file(url: str) -> Iterator[ModelFile]:
    """Lends the model that a path or URL names: of a run's directory, of a `.keras` file, or of a checkpoint.

    Raises:
        UsageError: if there is no model.
        StorageError: if it cannot be read.
    """
    file = _file_of(url)
    with _local_copy(url, file) as path:
        yield ModelFile(url, file, path)


def _file_of(url: str) -> str:
    plain = url.partition("?")[0] if "://" in url else url  # a query may be a signature
    name = plain.rstrip("/").rpartition("/")[2]
    is_file = name.endswith(".keras") or position_of(name) is not None
    return url if is_file else f"{url.rstrip('/')}/{MODEL}"


@contextmanager
def _local_copy(url: str, file: str) -> Iterator[Path]:
    """Lends a file of the local disk with what a file holds: itself, if it is local."""
    path = local_path(file)
    if path is not None:
        if not path.is_file():
            raise _missing(url, path)
        yield path
        return
    with tempfile.TemporaryDirectory() as place, open_reader(file) as reader:
        copy = Path(place) / MODEL
        with copy.open("wb") as stream:
            for start in range(0, reader.info.size_bytes, _COPY_BYTES):
                buffer = bytearray(min(_COPY_BYTES, reader.info.size_bytes - start))
                reader.read_into(start, memoryview(buffer))
                stream.write(buffer)
        yield copy


def _missing(url: str, path: Path) -> UsageError:
    directory = path.parent
    if not directory.is_dir():
        return UsageError(f"{url}: no such file or directory")
    with suppress(OSError):
        names = sorted(one.name for one in (directory / "checkpoints").iterdir() if position_of(one.name))
        if names:
            return UsageError(
                f"{url}: has no {path.name}, as the run has not ended; there is its checkpoint "
                f"{directory / 'checkpoints' / names[-1]}"
            )
    return UsageError(f"{url}: has no {path.name}; give a run's directory, a checkpoint or a .keras file")


def _loaded(url: str, fingerprint: str, path: Path, *, trust: bool) -> Trained:
    try:
        description = Description.read(path)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{url}: {error}") from error
    if description is None:
        raise DataError(
            f"{url}: does not tell which columns it takes, as disttrain did not write it: train it with --model, or "
            "load it with Keras itself"
        )
    if trust and description.function:
        user_function("--model", description.function)  # its module makes Keras know the classes
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "When providing `inputs` as a dict")  # of a column with a slash
            model = keras.saving.load_model(path, compile=False, safe_mode=not trust)
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise _refused(url, error, "" if trust else description.function) from error
    if description.table is None:
        return Trained(url, fingerprint, model, description)
    core = next(one for one in model.layers if isinstance(one, keras.Model) and one.name in (CORE, f"{CORE}_of_model"))
    return Trained(url, fingerprint, core, description)


def _refused(url: str, error: Exception, function: str) -> UsageError:
    """Returns an error for a model that Keras does not load; `function` made it, and was not imported."""
    reason = " ".join(str(error).split())
    if function and "register_keras_serializable" in reason:
        return UsageError(f"{url}: needs classes of {function}; add --trust-model to import it, if you trust it")
    if "safe_mode" in reason or "unsafe" in reason.lower():
        return UsageError(
            f"{url}: holds code of its own (such as a Lambda layer), which would run; add --trust-model if you trust "
            "whoever made it"
        )
    return UsageError(f"{url}: Keras cannot load it: {reason[:300]}")
