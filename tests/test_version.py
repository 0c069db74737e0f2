"""Versions of a data set in real git and real DVC: made, kept, fetched, raced for, and killed."""

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.contracts import BaseModelFiles, DatasetParts, DatasetVersion, Download, Part, SourceFile
from tasks.data import parquet
from tasks.data.fingerprint import folder_hash, listing, pin_of
from tasks.data.repository import cloned, without_credentials
from tasks.errors import ContractError, DataError, ServiceError
from tasks.version import _part as read_part
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import tiny

LABELS = ["negative", "neutral", "positive"]


@pytest.fixture
def run_on(make_run: Callable[..., Run]) -> Callable[..., Run]:
    """Start a run as split leaves it: `rows` rows a part."""

    def start(run_id: str, rows: int = 3, recipe: str = "tiny", parts: tuple[str, ...] = ("train", "test"), data: str = "new") -> Run:
        run = make_run(tiny.recipe_document(Path("/base"), Path("/source.csv"), recipe), run_id, run__data=data)
        if data == "new":
            source = SourceFile("file:/source.csv", "download/source.csv", "5" * 64, 1)
            run.write(Download(BaseModelFiles("base", "1", "/base"), source))
            run.write(DatasetParts("split", {name: _part(run, name, rows, recipe) for name in parts}, {}))
        return run

    return start


def _part(run: Run, name: str, rows: int, recipe: str) -> Part:
    path, labels = run.folder / "split" / f"{name}.parquet", [LABELS[row % 3] for row in range(rows)]
    parquet.write(path, ("row", range(rows)), {"text": [f"{recipe} {name} {row}" for row in range(rows)], "label": labels})
    return Part(run.relative(path), rows, {label: labels.count(label) for label in LABELS})


def _version(run: Run) -> DatasetVersion:
    made = perform("version", run)
    assert isinstance(made, DatasetVersion)
    return made


def _process(run: Run) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tasks", "version", "--run", str(run.folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def _git(home: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "--git-dir", str(home / "data-repo.git"), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def _dvc(cwd: Path, *arguments: str) -> str:
    cwd.mkdir(exist_ok=True)
    environment = {**os.environ, "DVC_SITE_CACHE_DIR": str(cwd / "site")}
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _hook(home: Path, text: str) -> Path:
    if not (home / "data-repo.git").exists():
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(home / "data-repo.git")], check=True)
    hook = home / "data-repo.git" / "hooks" / "pre-receive"
    hook.write_text(f"#!/bin/sh\n{text}\n")
    hook.chmod(hook.stat().st_mode | stat.S_IXUSR)
    return hook


def _stored(home: Path, tag: str) -> str:
    """DVC's hash of a version's own folder, from what git and the DVC remote really hold."""
    objects, recipe = home / "dvc-remote" / "files" / "md5", tag.split("/")[1]
    md5 = yaml.safe_load(_git(home, "show", f"{tag}:data.dvc"))["outs"][0]["md5"]
    entries = json.loads((objects / md5[:2] / md5[2:]).read_text())
    for entry in entries:
        content = (objects / entry["md5"][:2] / entry["md5"][2:]).read_bytes()
        assert hashlib.md5(content).hexdigest() == entry["md5"]
    return folder_hash(
        {path: entry["md5"] for entry in entries if (path := entry["relpath"].removeprefix(f"{recipe}/")) != entry["relpath"]}
    )


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.05)


def test_versions_are_made_kept_and_fetched(run_on: Callable[..., Run], home: Path, tmp_path: Path) -> None:
    run = run_on("one", parts=("train", "validation", "test"))
    first = _version(run)
    assert (first.tag, first.number, first.created) == ("data/tiny/v1", 1, True)
    assert first.git_commit == _git(home, "rev-parse", "data/tiny/v1") == _git(home, "rev-parse", "main")
    assert first.matches_pin is None, "data.dvc pins another recipe"
    assert yaml.safe_load(_git(home, "show", "main:data.dvc"))["outs"] == pin_of("tiny", run.attempt / "data")["outs"], "DVC's own words"

    other = _version(run_on("one", recipe="other", rows=5))
    assert other.tag == "data/other/v1"

    same = _version(run_on("two", parts=("train", "validation", "test")))
    assert (same.tag, same.created, same.data_hash, same.git_commit) == (first.tag, False, first.data_hash, first.git_commit)

    changed = run_on("three", rows=4)  # and without a validation part
    second = _version(changed)
    assert (second.tag, second.created) == ("data/tiny/v2", True)
    assert second.data_hash != first.data_hash
    assert {name: (part.rows, part.labels) for name, part in second.parts.items()} == {
        name: (4, {"negative": 2, "neutral": 1, "positive": 1}) for name in ("train", "test")
    }
    message = _git(home, "log", "-1", "--format=%an%n%B", "main")
    assert message == (
        f"loraflow\nVersion data/tiny/v2\n\nRun: tiny/three\nRows: train 4, test 4\n"
        f"Source: file:/source.csv sha256:{'5' * 64}\nData: {second.data_hash}"
    )

    # A data scientist with read access, with nothing but dvc and the repository's address.
    _dvc(tmp_path / "user", "get", "--quiet", first.repository, "data/tiny", "--rev", "data/tiny/v1", "-o", "v1")
    _dvc(tmp_path / "user", "get", "--quiet", first.repository, "data/tiny", "--rev", "data/tiny/v2", "-o", "v2")
    _dvc(tmp_path / "user", "get", "--quiet", first.repository, "data", "-o", "all")
    assert sorted(listing(tmp_path / "user" / "v1")) == ["test.parquet", "train.parquet", "validation.parquet"]
    assert listing(tmp_path / "user" / "v2") == listing(changed.attempt / "data")
    assert sorted(listing(tmp_path / "user" / "all")) == [
        "other/test.parquet",
        "other/train.parquet",
        "tiny/test.parquet",
        "tiny/train.parquet",
    ]

    # Back to a former state: a new version, so that `latest` tells the truth.
    third = _version(run_on("four", parts=("train", "validation", "test")))
    assert (third.tag, third.data_hash) == ("data/tiny/v3", first.data_hash)

    before = _git(home, "for-each-ref")
    for asked, expected in (("latest", third), ("v2", second)):
        run = run_on(f"again-{asked}", data=asked)
        fetched = _version(run)
        assert (fetched.tag, fetched.created, fetched.data_hash, fetched.git_commit) == (
            expected.tag, False, expected.data_hash, expected.git_commit,
        )  # fmt: skip
        assert {name: (part.rows, part.labels) for name, part in fetched.parts.items()} == {
            name: (part.rows, part.labels) for name, part in expected.parts.items()
        }
        assert all(run.path(part.path).parent == run.attempt / "data" for part in fetched.parts.values())
        assert [path.name for path in run.attempt.iterdir()] == ["data"], "the clone was left behind"
    assert _git(home, "for-each-ref") == before

    with pytest.raises(DataError, match=r"data/tiny: no version v9 \(expected: one of v1, v2, v3\)\. Fix: name one of them"):
        _version(run_on("missing", data="v9"))


def test_first_version_has_to_be_made(run_on: Callable[..., Run], home: Path) -> None:
    with pytest.raises(DataError, match=r"no version latest. Fix: run it with data: new first"):
        _version(run_on("early", data="latest"))


def test_three_at_once(run_on: Callable[..., Run], home: Path) -> None:
    """Runs of one and of two recipes that version at the same time, first use included, each end with a version of their own data."""
    runs = [run_on("one", rows=3), run_on("two", rows=4), run_on("one", rows=5, recipe="other")]
    # Who pushes first is held until all three push: two of them lose the race for certain.
    _hook(home, f"touch $(mktemp -u {home}/arrived.XXXXXX); until [ $(ls {home} | grep -c arrived) -ge 3 ]; do sleep 0.05; done")
    processes = [_process(run) for run in runs]
    for process in processes:
        output = process.communicate(timeout=240)[0].decode()
        assert process.returncode == 0, output
    assert len(list(home.glob("arrived.*"))) > 3, "nobody lost a race"
    one, two, other = versions = [run.read(DatasetVersion) for run in runs]
    assert {one.tag, two.tag} == {"data/tiny/v1", "data/tiny/v2"}
    assert other.tag == "data/other/v1"
    assert _git(home, "rev-list", "--count", "main") == "3"
    for version in versions:
        assert _stored(home, version.tag) == version.data_hash


@pytest.mark.parametrize("orphan", ["dies", "lives"])
def test_killed_between_the_two_pushes(run_on: Callable[..., Run], home: Path, orphan: str) -> None:
    """kill -9 after DVC's push and before git's end: the rerun ends where an undisturbed run does."""
    run, arrived, go = run_on("killed"), home / "arrived", home / "go"
    hook = _hook(home, f"touch {arrived}; until [ -e {go} ]; do sleep 0.05; done; {'exit 1' if orphan == 'dies' else ''}")
    process = _process(run)
    _wait_for(arrived)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not run.has(DatasetVersion)
    assert _git(home, "tag") == ""
    assert any(path.name.endswith(".dir") for path in (home / "dvc-remote").rglob("*")), "files are pushed before the tag"
    hook.unlink()
    go.touch()  # the orphan's push, still held in the hook, is refused or gets through: beside the rerun
    version = _version(run)
    assert (version.tag, version.created) == ("data/tiny/v1", True)
    assert version == _version(run), "a retry returns at once"
    assert _git(home, "tag") == "data/tiny/v1"
    assert _git(home, "rev-list", "--count", "main") == "1"
    assert len(list((run.folder / "version").iterdir())) == 1, "what the dead attempt left is gone"
    assert _stored(home, version.tag) == version.data_hash


def test_a_push_whose_answer_was_lost_counts(run_on: Callable[..., Run], home: Path) -> None:
    _hook(home, "exit 0")
    post = home / "data-repo.git" / "hooks" / "post-receive"
    post.write_text("#!/bin/sh\nkill -9 $(ps -o ppid= -p $PPID)\n")  # the pushing git, once the refs are there
    post.chmod(0o755)
    version = _version(run_on("lost"))
    assert (version.tag, version.created) == ("data/tiny/v1", True)
    assert _git(home, "rev-list", "--count", "main") == "1"


def test_no_right_to_push(run_on: Callable[..., Run], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said as it is. And nothing of the user's comes in between: no repository that we are called in, no signing, no hooks."""
    hook = _hook(home, "echo protected branch >&2; exit 1")
    _git(home, "config", "core.hooksPath", str(hook.parent))  # the server's own hooks stay its own
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "pre-commit").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "hooks" / "pre-commit").chmod(0o755)
    (tmp_path / "gitconfig").write_text(f"[commit]\n\tgpgSign = true\n[core]\n\thooksPath = {tmp_path / 'hooks'}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "user's own"))
    with pytest.raises(ContractError, match=r"git push failed .*the right to read and write\)\. Fix: .*LORAFLOW_DATA_REPO"):
        _version(run_on("refused"))


def test_who_pushes_second_has_lost(run_on: Callable[..., Run], home: Path, tmp_path: Path) -> None:
    ours, theirs = run_on("ours", rows=3).folder / "split", run_on("theirs", rows=4).folder / "split"
    with cloned(tmp_path) as one, cloned(tmp_path) as two:
        two.commit("tiny", ours, "data/tiny/v1", "ours")
        one.commit("tiny", theirs, "data/tiny/v1", "theirs")
        assert one.publish("tiny", "data/tiny/v1")
        assert not two.publish("tiny", "data/tiny/v1")
    assert _git(home, "log", "--format=%s", "main") == "theirs"


@pytest.mark.parametrize("other_run", ["pushed", "pushing"])
def test_lost_races_end(run_on: Callable[..., Run], home: Path, monkeypatch: pytest.MonkeyPatch, other_run: str) -> None:
    """Somebody is always in between: has pushed while our own push was under way, or holds git's lock."""
    if other_run == "pushed":
        other = "$(git -c user.name=x -c user.email=x commit-tree -m other $(git hash-object -t tree -w /dev/null))"
        _hook(home, f"unset $(env | grep -o '^GIT_[A-Z_]*' | grep -v GIT_DIR); git update-ref refs/heads/main {other}")
    else:
        _hook(home, f"touch {home}/data-repo.git/refs/heads/main.lock")
    monkeypatch.setattr("tasks.version.ATTEMPTS", 1)
    with pytest.raises(
        ServiceError, match=r"other runs pushed first, 1 times \(expected: data/tiny/v1 to be pushed\)\. Fix: try again when"
    ):
        _version(run_on("late"))
    assert _git(home, "tag") == "", "branch and tag go together"


def test_unreachable(run_on: Callable[..., Run], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_DATA_REPO", "http://user:hunter2@127.0.0.1:9/data.git")
    with pytest.raises(ServiceError, match=r"git clone failed .*a reachable place\)\. Fix: check LORAFLOW_DATA_REPO") as caught:
        _version(run_on("no-git"))
    assert "hunter2" not in str(caught.value)
    monkeypatch.delenv("LORAFLOW_DATA_REPO")
    blocked = home / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("LORAFLOW_DVC_REMOTE", str(blocked / "remote"))
    with pytest.raises(
        ServiceError,
        match=r"cannot be made \(Not a directory\) \(expected: a folder for DVC's files\)\. Fix: check that its parent "
        r"is a writable folder",
    ):
        _version(run_on("no-dvc"))
    assert _git(home, "tag") == "", "a tag whose files are missing"


def test_home_can_be_moved(run_on: Callable[..., Run], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The committed remote is then no longer there; the files are found all the same."""
    _version(run_on("one", parts=("train",)))
    moved = home.with_name("moved")
    run = run_on("two", data="latest")
    home.rename(moved)
    monkeypatch.setenv("LORAFLOW_HOME", str(moved))
    with pytest.raises(
        DataError, match=r"data/tiny/v1: test.parquet is missing \(expected: a train and a test part\)\. Fix: name another version"
    ):
        _version(Run(moved / run.folder.relative_to(home)))


def test_remote_of_a_team_repository(run_on: Callable[..., Run], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "-q", "--bare", "-b", "trunk", str(tmp_path / "team.git")], check=True)
    monkeypatch.setenv("LORAFLOW_DATA_REPO", str(tmp_path / "team.git"))
    with pytest.raises(
        ContractError, match=r"names no DVC remote in .dvc/config \(expected: a place for the files\)\. Fix: set LORAFLOW_DVC_REMOTE"
    ):
        _version(run_on("nowhere"))
    monkeypatch.setenv("LORAFLOW_DVC_REMOTE", "https://me:hunter2@store/data")
    with pytest.raises(
        ContractError, match=r"holds a password \(expected: a URL that may be committed\)\. Fix: give it by the environment"
    ) as caught:
        _version(run_on("told"))
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("LORAFLOW_DVC_REMOTE", str(tmp_path / "store"))
    version = _version(run_on("made"))
    monkeypatch.delenv("LORAFLOW_DVC_REMOTE")  # from here on the repository's own configuration says it
    fetched = _version(run_on("colleague", data="v1"))
    assert (fetched.data_hash, fetched.repository) == (version.data_hash, str(tmp_path / "team.git"))
    assert not (home / "data-repo.git").exists()
    assert not (home / "dvc-remote").exists()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (None, r"data/tiny/v1: train.parquet: not readable \(.*\) \(expected: a parquet file\)"),
        ({"text": ["a"]}, r"column label is missing \(expected: row, text, label\)\. Fix: name another version, or make a new one"),
        ({"text": ["a"], "label": ["angry"]}, r"label 'angry' \(expected: one of negative, neutral, positive\)"),
    ],
)
def test_a_version_that_does_not_fit(
    run_on: Callable[..., Run], tmp_path: Path, columns: dict[str, list[str]] | None, message: str
) -> None:
    path = tmp_path / "train.parquet"
    path.write_text("no parquet")
    if columns:
        parquet.write(path, ("row", [1]), columns)
    with pytest.raises(DataError, match=message):
        read_part(run_on("bad", data="latest"), "data/tiny/v1", path)


def test_parts_of_other_kinds_are_read_by_their_own_columns(make_run: Any, tiny_document: dict[str, Any], tmp_path: Path) -> None:
    several = {"kind": "label_generation", "prompt__answer": "{labels}", "gate__metric": "micro_f1", "split__balance": "none"}
    run = make_run(tiny_document, "several", **several)
    path = run.folder / "train.parquet"
    parquet.write(path, ("row", [1, 2]), {"text": ["a", "b"], "label": ["negative|positive", "positive"]})
    assert read_part(run, "data/tiny/v1", path).labels == {"negative": 1, "neutral": 0, "positive": 2}
    chat = tiny_document | {"kind": "chat", "labels": {}, "gate": {"metric": "log_likelihood"}, "evaluate": {"max_new_tokens": 16}}
    chat |= {"prompt": {"max_tokens": 64}, "split": {"seed": 1, "test": 1}, "data": {"source": {"file": "/a"}, "text": "q", "answer": "a"}}
    run = make_run(chat, "chat")
    path = run.folder / "train.parquet"
    parquet.write(path, ("row", [1]), {"text": ["a"], "answer": ["b"], "rejected": [""]})
    assert read_part(run, "data/tiny/v1", path).labels == {}
    parquet.write(path, ("row", [1]), {"text": ["a"]})
    with pytest.raises(DataError, match=r"column answer is missing \(expected: row, text, answer\)"):
        read_part(run, "data/tiny/v1", path)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("https://me:pa@ss@host/x and https://token@host/y", "https://host/x and https://host/y"),
        ("ssh://git@host/x", "ssh://git@host/x"),
        ("ssh://git:word@host/x", "ssh://git@host/x"),
        ("git@host:x.git", "git@host:x.git"),
        ("/a folder/x@y.git", "/a folder/x@y.git"),
    ],
)
def test_credentials_are_cut_out(text: str, plain: str) -> None:
    assert without_credentials(text) == plain


def test_imports_nothing_heavy() -> None:
    code = "import sys, tasks.version; print([m for m in ('torch', 'transformers', 'mlflow', 'dvc', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
