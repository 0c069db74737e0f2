"""A full disk ends a step with a fault that a retry may mend, and nothing half-written passes for done."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.contracts import MergedModel
from tasks.errors import DataError, ServiceError
from tasks.settings import CHECKOUT
from tasks.workspace.disk import disk_faults
from tasks.workspace.perform import perform
from tasks.workspace.run import Run

pytestmark = pytest.mark.trains


def test_a_full_disk_in_the_middle_of_a_step(trained: Run) -> None:
    """The merged model is written by a library in Rust, whose error for a full disk is no OSError."""
    (trained.folder / "merge.json").unlink()
    shutil.rmtree(trained.folder / "merge")
    (trained.folder / "merge").mkdir()
    mount = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs "$0" && exec "$@"', str(trained.folder / "merge")]
    if not shutil.which("unshare") or subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    command = [*mount, sys.executable, "-m", "tasks", "merge", "--run", str(trained.folder)]
    ended = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert ended.returncode == ServiceError.exit_code, ended.stderr
    assert "no space left on device (expected: room and the right to write). Fix: free space, or move LORAFLOW_HOME" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not trained.has(MergedModel)
    perform("merge", trained)
    assert trained.has(MergedModel)


def test_other_faults_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="here: found"), disk_faults(tmp_path):
        raise DataError("here", "found")
    with pytest.raises(FileNotFoundError), disk_faults(tmp_path):
        (tmp_path / "nowhere").read_bytes()
    with pytest.raises(ServiceError, match="permission denied"), disk_faults(tmp_path):
        raise PermissionError(13, os.strerror(13), "file")
