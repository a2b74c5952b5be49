"""What a disk and a stranger may do to the files of a test."""

import os
import shutil
import subprocess
from contextlib import contextmanager

import pytest


class Canary:
    """Leaves a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@contextmanager
def small_disk(place, size):
    """A file system of so many bytes in memory ("256k", "2m"), at a new folder."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "mmfuse-test", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here: that takes the rights of root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # files may still be mapped
