"""The directory of a run's results; what lies in it is told in test_command.py."""

import errno
import os
import tempfile

import pytest

from disttrain.errors import StorageError, UsageError
from disttrain.run.directory import RunDirectory

# What the system says where a file is to be made, and the error: a full disk may have room later.
TABLE = {errno.ENOSPC: StorageError, errno.EDQUOT: StorageError, errno.EROFS: UsageError, errno.EACCES: UsageError}


@pytest.mark.parametrize("number", TABLE)
def test_a_directory_that_takes_no_files_is_named(tmp_path, monkeypatch, number):
    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(TABLE[number], match=f"--output .*/a: cannot be written: {os.strerror(number)}"):
        RunDirectory(tmp_path / "a", overwrite=False)
