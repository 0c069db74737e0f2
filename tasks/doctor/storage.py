"""The places that a run reads and writes: workspace, data repository and DVC's remote, published folder. Probes are removed again."""

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tasks.contracts import Finding
from tasks.data.repository import Clone, check_remote, cloned, environment_of
from tasks.doctor import probe
from tasks.doctor.findings import fault, good
from tasks.doctor.machine import standing
from tasks.doctor.scope import Scope, scheme
from tasks.registry import publish
from tasks.secrets.redaction import in_one_line
from tasks.workspace.filesystems import check_credentials, file_system

PROBE_SECONDS = 45.0
"""A store that takes longer for a few bytes does not answer."""

MOUNT = "mount it, or give this user the right to write there"


def workspace(scope: Scope) -> Iterator[Finding]:
    """Write, read and remove a few bytes where the runs live."""
    if not scheme(scope.place):
        yield folder_finding("workspace", Path(scope.place), "LORAFLOW_RUNS")
        return
    store = file_system(scheme(scope.place))
    try:
        probe.probe(store, store._strip_protocol(scope.place))
    except Exception as error:  # each store's client has errors of its own
        said = f"{scope.place}: {type(error).__name__}: {in_one_line(error)}"
        yield fault("workspace", said, "check LORAFLOW_RUNS, its credentials and the network", passing=probe.passing(error))
    else:
        yield good("workspace", f"{scope.place} is written, read and cleaned")


def data_repository(scope: Scope) -> Iterator[Finding]:
    """Clone the data repository and rehearse a push; then look at DVC's remote, whose name may stand in it."""
    what, settings = "data repository", scope.settings
    fresh = settings.data_repo is None and not Path(settings.data_repo_url).exists()
    if fresh:
        yield folder_finding(what, Path(settings.data_repo_url), "LORAFLOW_HOME")
        yield from _remote(scope, settings.dvc_remote_url, None)
        return
    with tempfile.TemporaryDirectory(prefix="loraflow-preflight-", ignore_cleanup_errors=True) as folder, cloned(Path(folder)) as clone:
        if scope.new_data:
            clone.rehearse_push()
            yield good(what, f"{clone.address} may be pushed to")
        else:
            yield _version(what, scope, clone)
        yield from _remote(scope, clone.remote_url, clone)


def _version(what: str, scope: Scope, clone: Clone) -> Finding:
    assert scope.recipe is not None
    there, asked = clone.versions(scope.recipe.name), scope.recipe.run.data
    if there and (asked == "latest" or int(asked[1:]) in there):
        return good(what, f"{clone.address} has version {asked} of {scope.recipe.name}")
    names = ", ".join(f"v{one}" for one in there) or "none"
    return fault(
        what, f"{clone.address} has no version {asked} of {scope.recipe.name}, there: {names}", "name one of them, or run.data new"
    )


def _remote(scope: Scope, url: str, clone: Clone | None) -> Iterator[Finding]:
    check_remote(url)
    if not scheme(url):
        yield folder_finding("DVC remote", Path(url), "LORAFLOW_DVC_REMOTE")
    elif clone is None:  # the repository is still to be made, and so is DVC's configuration in it
        with tempfile.TemporaryDirectory(prefix="loraflow-preflight-") as folder:
            yield _probed(url, Path(folder), [url])
    else:
        yield _probed(url, clone.with_remote(), [])


def _probed(url: str, folder: Path, arguments: list[str]) -> Finding:
    """DVC's own file system, in a process of its own: with its configuration, its errors, and an end."""
    check_credentials(scheme(url))
    remedy = "check LORAFLOW_DVC_REMOTE, its credentials and the network"
    command = [sys.executable, "-P", str(Path(probe.__file__)), *arguments]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment_of(folder), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=PROBE_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return fault("DVC remote", f"{url}: no answer in {PROBE_SECONDS:.0f} s", remedy, passing=True)
    if done.returncode == 0:
        return good("DVC remote", f"{url} is written, read and cleaned")
    said = in_one_line(done.stderr or done.stdout, None)[-300:]
    return fault("DVC remote", f"{url}: {said}", remedy, passing=done.returncode == probe.RETRY)


def published(scope: Scope) -> Iterator[Finding]:
    """The folder that models are published to, where it is one."""
    kind, _, place = scope.settings.hub_url.partition(":")
    publish.namespace(scope.settings.hub_url)
    if kind == "folder":
        yield folder_finding("published folder", Path(place).expanduser().absolute(), "LORAFLOW_HUB")


def folder_finding(what: str, folder: Path, setting: str) -> Finding:
    """Write, read and remove a file in a folder, or where it will be made."""
    there = standing(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=probe.NAME) as file:
            file.write(b"probe")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        found = f"{there} cannot be written to ({error.strerror or error})"
        # A full disk may have room again; a folder that is read-only stays so.
        return fault(what, found, f"{MOUNT} ({setting})", passing=error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO))
    return good(what, f"{folder} is written" if there == folder else f"{folder} will be made")
