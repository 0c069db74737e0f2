"""The data repository: git holds the history and the tags of the versions, DVC's remote holds the files.

Whoever uses it works in a clone of his own, with DVC's cache, lock and site cache inside it, so that two steps that
version at once share nothing but the two remotes, and no checkout or configuration of the user's is ever touched.
git and DVC run as commands, whose behaviour is documented, and not as libraries, whose insides are not.
"""

import errno
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from configobj import ConfigObj, ConfigObjError
from filelock import FileLock

from tasks.data.fingerprint import folder_hash
from tasks.errors import ContractError, LoraflowError, ServiceError, SettingsError
from tasks.secrets.redaction import in_one_line, without_credentials
from tasks.settings import local_folder, quiet_environment, settings
from tasks.workspace.filesystems import check_credentials

IDENTITY = {
    f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in (("NAME", "loraflow"), ("EMAIL", "loraflow@localhost"))
}

CLONE_CONFIG = (
    "commit.gpgSign=false", "tag.gpgSign=false", "core.hooksPath=/dev/null", "core.excludesFile=/dev/null", "core.autocrlf=false",
    "http.lowSpeedLimit=1", "http.lowSpeedTime=60",
)  # fmt: skip
"""The clone's own configuration: nothing in the user's global one may sign, run, hide or rewrite what is committed here."""

OUTER_REPOSITORY = frozenset(
    f"GIT_{name}" for name in ("DIR", "WORK_TREE", "INDEX_FILE", "OBJECT_DIRECTORY", "ALTERNATE_OBJECT_DIRECTORIES", "COMMON_DIR", "PREFIX")
)
"""What git sets for a hook or an alias: with it in the environment, our commands would work on the user's repository."""

NO_RIGHTS = re.compile(
    r"(permission|access) denied|authentication failed|could not read (username|password)|(error:|HTTP) 40[13]|not authori[sz]ed|forbidden"
    r"|insufficient permission|read-only file system|unable to locate credentials|\[remote rejected\]|declined",
    re.IGNORECASE,
)
LOST_RACE = re.compile(r"cannot lock ref|failed to update ref|incorrect old value|\.lock'", re.IGNORECASE)


def tag_of(recipe: str, number: int) -> str:
    """Git tag of a version."""
    return f"data/{recipe}/v{number}"


@contextmanager
def cloned(within: Path) -> Iterator["Clone"]:
    """A fresh clone of the data repository, in a folder that goes afterwards.

    Raises:
        ServiceError: the repository cannot be reached.
        ContractError: the credentials at hand do not open it, or it has no DVC remote.
    """
    url = _repository_url()
    clone = tempfile.TemporaryDirectory(dir=within, prefix="clone-", ignore_cleanup_errors=True)
    with clone as folder, tempfile.TemporaryDirectory(prefix="loraflow-links-") as links:
        yield Clone(url, Path(folder) / "repository", Path(links))


class Clone:
    """A clone of the data repository.

    Attributes:
        address: URL of the repository, without credentials.
        remote_url: URL or folder of DVC's remote.
    """

    def __init__(self, url: str, folder: Path, links: Path) -> None:
        self.address = without_credentials(url)
        self._folder, self._links = folder, links
        config = [argument for pair in CLONE_CONFIG for argument in ("-c", pair)]
        self._git("clone", "--quiet", *config, "--", url, str(folder), within=folder.parent)
        self._branch = self._git("symbolic-ref", "--short", "HEAD")
        self._base = self._git("for-each-ref", "--format=%(objectname)", f"refs/remotes/origin/{self._branch}")
        self._remote_name, self.remote_url = self._remote()
        if (folder / ".dvc").is_dir():
            self._use_remote()

    def versions(self, recipe: str) -> list[int]:
        """Numbers of a recipe's versions, ascending."""
        tags = self._git("tag", "--list", f"data/{recipe}/*").split()
        return sorted(int(found[1]) for tag in tags if (found := re.fullmatch(r"data/[^/]+/v([1-9][0-9]*)", tag)))

    def commit_of(self, tag: str) -> str:
        """Git commit of a version."""
        return self._git("rev-parse", f"{tag}^{{commit}}")

    def made_by(self, tag: str) -> str:
        """Id of the run that made a version; empty where a person made it."""
        return self._git("log", "-1", "--format=%(trailers:key=Run,valueonly)", tag)

    def hash_of(self, recipe: str, tag: str) -> str:
        """DVC's hash of a recipe's own folder in a version; needs the folder's listing only, not its files."""
        self._git("checkout", "--quiet", "--detach", tag)
        listed = self._dvc("list", ".", f"data/{recipe}", "--dvc-only", "--recursive", "--show-hash", "--json")
        self._git("checkout", "--quiet", self._branch)
        return folder_hash({entry["path"]: entry["md5"] for entry in json.loads(listed)})

    def commit(self, recipe: str, data: Path, tag: str, message: str) -> None:
        """Commit and tag a folder as a recipe's new version, here in the clone."""
        if not (self._folder / ".dvc").is_dir():
            self._dvc("init")
            self._use_remote()
        core = {"remote": self._remote_name, "autostage": "true", "analytics": "false"}
        _configure(self._folder / ".dvc" / "config", core, self._remote_name, {"url": self.remote_url})
        # Copied, not linked: DVC makes what it takes into its cache read-only.
        shutil.copytree(data, self._folder / "data" / recipe)
        # Within a tracked data/ DVC adds this folder alone, and needs of the others no more than their listing.
        self._dvc("add", f"data/{recipe}" if (self._folder / "data.dvc").exists() else "data")
        self._git("add", "--all")
        self._git("commit", "--quiet", "--message", message)
        self._git("tag", tag)

    def publish(self, recipe: str, tag: str) -> bool:
        """Push the files first, then branch and tag in one transaction: a tag that can be seen has its files.

        Returns:
            False where the repository has moved on since it was cloned.

        Raises:
            ServiceError: repository or remote cannot be reached.
            ContractError: they may not be written to.
        """
        if remote := local_folder(self.remote_url):
            _make_remote(remote)
        self._dvc("push", f"data/{recipe}")
        try:
            self._git("push", "--quiet", "--atomic", "origin", f"HEAD:refs/heads/{self._branch}", f"refs/tags/{tag}")
        except LoraflowError as error:
            # Where the push got through and only its answer was lost, the next try finds the version there, and made by this run.
            if self._remote_head() != self._base or LOST_RACE.search(error.found):
                return False
            raise
        return True

    def rehearse_push(self) -> None:
        """Do all of a push but the writing: the server looks at the right to write, and nothing is left behind.

        Raises:
            ServiceError: the repository cannot be reached.
            ContractError: it may not be written to.
        """
        self._git("commit", "--quiet", "--allow-empty", "--message", "preflight")  # an empty repository has nothing to push
        self._git("push", "--quiet", "--dry-run", "origin", f"HEAD:refs/heads/loraflow-preflight-{secrets.token_hex(4)}")
        # No server looks at the right to write where git writes by itself.
        local = Path(self.address)
        if local.exists() and not os.access(local, os.W_OK):
            raise ContractError(self.address, "read-only", "the right to write", "give it to this user, or change LORAFLOW_DATA_REPO")

    def with_remote(self) -> Path:
        """The clone's folder, with DVC's configuration in it also where nobody has initialised DVC yet."""
        (self._folder / ".dvc").mkdir(exist_ok=True)
        self._use_remote()
        return self._folder

    def fetch(self, recipe: str, tag: str, target: Path) -> None:
        """Fetch the files of a version into a new folder."""
        self._git("checkout", "--quiet", "--detach", tag)
        self._dvc("pull", f"data/{recipe}")
        shutil.move(self._folder / "data" / recipe, target)

    def _remote_head(self) -> str:
        return self._git("ls-remote", "origin", f"refs/heads/{self._branch}").partition("\t")[0]

    def _remote(self) -> tuple[str, str]:
        """Name and URL of the DVC remote: the setting's, else what the repository has committed, else the embedded default's."""
        ours, path = settings(), self._folder / ".dvc" / "config"
        config = _read_configuration(path, self.address)
        name = config.get("core", {}).get("remote", "storage")
        committed = config.get(f'remote "{name}"', {}).get("url")
        url = committed if ours.data_repo and not ours.dvc_remote else ours.dvc_remote_url
        if not url:
            raise ContractError(self.address, "names no DVC remote in .dvc/config", "a place for the files", "set LORAFLOW_DVC_REMOTE")
        if without_credentials(url) != url:
            raise ContractError("LORAFLOW_DVC_REMOTE", "holds a password", "a URL that may be committed", "give it by the environment")
        check_remote(url)
        return name, str(local_folder(url) or url)

    def _use_remote(self) -> None:
        """Settings that are not committed, so that every version is read and written through the same remote and cache.

        DVC takes {braces} in the path of a cache or remote for fields of its own messages. So it gets links to both, in a folder whose
        path has none.
        """
        own, remote = self._folder / ".dvc" / "cache", local_folder(self.remote_url)
        own.mkdir(exist_ok=True)
        cache = {"dir": _linked(self._links / "cache", own)}
        url = {"url": _linked(self._links / "remote", remote) if remote else self.remote_url}
        core = {"remote": self._remote_name, "check_update": "false"}
        _configure(self._folder / ".dvc" / "config.local", core, self._remote_name, url, cache=cache)

    def _git(self, *arguments: str, within: Path | None = None) -> str:
        return _call(["git", *arguments], within or self._folder, self.address, "LORAFLOW_DATA_REPO")

    def _dvc(self, *arguments: str) -> str:
        check_credentials(self.remote_url.partition("://")[0])
        return _call([sys.executable, "-m", "dvc", *arguments], self._folder, self.remote_url, "LORAFLOW_DVC_REMOTE")


def _repository_url() -> str:
    """URL of the data repository; the embedded default is made where it is not there yet."""
    ours = settings()
    if ours.data_repo:
        local = Path(ours.data_repo).expanduser()
        return str(local.absolute()) if local.exists() else ours.data_repo
    path = Path(ours.data_repo_url)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        # On a repository that is there this changes nothing, and it mends one whose making was cut short.
        _call(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(path)], path.parent, str(path), "LORAFLOW_HOME")
    return str(path)


def _call(command: list[str], folder: Path, where: str, setting: str) -> str:
    """What git or DVC prints; `where` is the place at fault when it fails, `setting` the variable that names it."""
    done = subprocess.run(
        command, cwd=folder, env=environment_of(folder), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return done.stdout.strip()
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]  # of DVC, beside its advice
    said = in_one_line(" ".join(errors or [done.stderr or done.stdout]), None)
    program, verb = ("git", command[1]) if command[0] == "git" else ("dvc", command[3])
    found = f"{program} {verb} failed ({said})"
    if NO_RIGHTS.search(said):
        raise ContractError(where, found, "the right to read and write", f"give it to this user, or change {setting}")
    raise ServiceError(where, found, "a reachable place", f"check {setting} and the network")


def environment_of(folder: Path) -> dict[str, str]:
    """The environment of git and DVC: an identity of our own, no questions, and nothing of a repository that we may be called in."""
    outer = {key: value for key, value in quiet_environment().items() if key not in OUTER_REPOSITORY}
    quiet = {"GIT_TERMINAL_PROMPT": "0", "DVC_SITE_CACHE_DIR": str(folder / ".dvc" / "tmp" / "site"), "LC_ALL": "C.UTF-8"}
    ssh = {"GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=30"}
    return {**ssh, **outer, **quiet, **IDENTITY}


def check_remote(url: str) -> None:
    """Check that DVC takes the remote's path or URL for what it is.

    Raises:
        SettingsError: its configuration cannot hold it, or DVC would cut or misread it.
    """
    if local_folder(url) is None and (found := next((letter for letter in "{}#?" if letter in url), None)):
        raise SettingsError("DVC remote", f"{url} holds {found!r}", "a URL without { } # ?", "name another prefix")
    with suppress(ConfigObjError):
        if ConfigObj(ConfigObj({"url": url}, interpolation=False).write()).dict() == {"url": url}:
            return
    raise SettingsError(
        "DVC remote",
        f"{url!r} does not fit into DVC's configuration",
        "a path without %(...)s, and without ''' beside \"\"\"",
        "rename the folder, or set LORAFLOW_DVC_REMOTE (LORAFLOW_HOME, where the remote is the default one)",
    )


def _make_remote(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        lasting = isinstance(error, PermissionError) or error.errno == errno.EROFS
        raise (ContractError if lasting else ServiceError)(
            str(folder),
            f"cannot be made ({error.strerror})",
            "a folder for DVC's files",
            "check that its parent is a writable folder, or change LORAFLOW_DVC_REMOTE",
        ) from None


def _linked(link: Path, folder: Path) -> str:
    link.unlink(missing_ok=True)
    link.symlink_to(folder)
    return str(link)


def _read_configuration(path: Path, address: str) -> dict[str, Any]:
    """One of DVC's configuration files, read by the library that DVC reads it with."""
    try:
        return dict(ConfigObj(str(path), encoding="utf-8").dict())
    except (ConfigObjError, UnicodeDecodeError) as error:
        raise ContractError(address, f".dvc/config cannot be read ({error})", "a configuration of DVC", "correct it") from None


def _configure(path: Path, core: Mapping[str, str], remote: str, options: Mapping[str, str], **sections: Mapping[str, str]) -> None:
    """Set keys in one of DVC's configuration files, leaving the others."""
    config = ConfigObj(str(path), encoding="utf-8", interpolation=False)
    for name, values in {"core": core, f'remote "{remote}"': options, **sections}.items():
        config.setdefault(name, {}).update(values)
    config.write()
