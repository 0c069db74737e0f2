"""Which tests run: real git repositories, and real runs of pytest in them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.settings import CHECKOUT
from tests.support.guarded import changed

pytestmark = pytest.mark.guards("tests/support/guarded.py", "tests/conftest.py")

CONFTEST = """
from pathlib import Path
from tests.support import guarded
guarded.CHECKOUT = Path(__file__).resolve().parent.parent
from tests.support.guarded import (
    pytest_addoption, pytest_collection_modifyitems, pytest_report_header, pytest_sessionfinish, pytest_terminal_summary,
    pytest_testnodedown,
)
"""
TESTS = {
    "tests/test_plain.py": "def test_plain(): pass\n",
    "tests/rare/test_rare.py": """
import pytest
pytestmark = pytest.mark.guards("tool")
def test_rare(): pass
""",
    "tests/test_both.py": """
import pytest
@pytest.mark.parametrize("family", ["common", pytest.param("odd", marks=pytest.mark.guards("tool", "lock"))])
def test_family(family): pass
""",
}


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=Tester", "-c", "user.email=tester@example.com", "-c", "protocol.file.allow=always"]
    return subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def commit(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(f"{file} {len(git(folder, 'log', '--all', '--oneline').splitlines())}")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", "change")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits on `main`; the first has the tests and what they guard, the second another file."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet", "-b", "main")
    for name, text in {
        **TESTS,
        "tests/conftest.py": CONFTEST,
        "pytest.ini": "[pytest]\nmarkers = guards\n",
        ".gitignore": ".*\n__pycache__\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    commit(folder, "tool/one.py", "lock")
    commit(folder, "other.py")
    return folder


def clone(repository: Path, *options: str) -> Path:
    folder = repository.parent / "clone"
    git(repository.parent, "clone", "--quiet", *options, repository.as_uri(), str(folder))
    return folder


def pytest_run(folder: Path, *arguments: str) -> tuple[set[str], str]:
    """Names of the tests that ran, and all that was printed."""
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(command, cwd=folder, env={**kept, "PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True)
    passed = {word.rpartition("::")[2] for line in done.stdout.splitlines() if "PASSED" in line for word in line.split() if "::" in word}
    return passed, done.stdout + done.stderr


def test_on_main_the_last_commit_counts(repository: Path) -> None:
    assert changed(repository) == {"other.py"}
    assert changed(clone(repository)) == {"other.py"}


def test_on_a_branch_all_its_commits_count_and_what_is_not_committed(repository: Path) -> None:
    folder = clone(repository)
    git(folder, "checkout", "--quiet", "-b", "work")
    commit(folder, "first.py")
    git(folder, "mv", "other.py", "moved.py")
    commit(folder, "second.py")
    (folder / "lock").write_text("changed")
    (folder / "with a blank").touch()
    assert changed(folder) == {"first.py", "other.py", "moved.py", "second.py", "lock", "with a blank"}
    commit(repository, "theirs.py")
    git(folder, "fetch", "--quiet")
    assert "theirs.py" not in (changed(folder) or ())


def test_where_git_cannot_say_nothing_is_left_out(repository: Path, tmp_path: Path) -> None:
    assert changed(clone(repository, "--depth", "1")) is None
    assert changed(tmp_path) is None
    archive = repository / "tool"
    assert changed(archive) is None, "that is not its repository"
    assert changed(CHECKOUT / "nowhere") is None


EVERY = {"test_plain", "test_rare", "test_family[common]", "test_family[odd]"}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_what_guards_an_unchanged_file_is_left_out_and_told(repository: Path, workers: str) -> None:
    passed, printed = pytest_run(repository, "-n", workers)
    assert passed == {"test_plain", "test_family[common]"}
    assert "guards: 1 files differ from " in printed
    assert "guards: 2 tests left out, since what they guard has not changed (--all runs them)" in printed
    passed, printed = pytest_run(repository, "-n", workers, "--all")
    assert passed == EVERY and "left out" not in printed


@pytest.mark.parametrize(
    ("change", "run"),
    [
        ("tool/one.py", EVERY),
        ("tool/new.py", EVERY),
        ("lock", EVERY - {"test_rare"}),
        ("tools/one.py", EVERY - {"test_rare", "test_family[odd]"}),
        ("tests/rare/test_rare.py", EVERY - {"test_family[odd]"}),
    ],
)
def test_a_change_runs_what_guards_it(repository: Path, change: str, run: set[str]) -> None:
    (repository / change).parent.mkdir(exist_ok=True)
    with (repository / change).open("a") as file:
        file.write("\n# changed\n")
    assert pytest_run(repository)[0] == run


def test_a_file_or_folder_that_is_named_runs(repository: Path) -> None:
    assert pytest_run(repository, "tests/rare/test_rare.py::test_rare")[0] == {"test_rare"}
    assert pytest_run(repository, "-n", "2", "tests/rare", "tests/test_both.py")[0] == EVERY - {"test_plain"}
    assert pytest_run(repository, "tests")[0] == {"test_plain", "test_family[common]"}


def test_a_guarded_path_that_does_not_exist_is_an_error(repository: Path) -> None:
    git(repository, "mv", "tool", "moved")
    passed, printed = pytest_run(repository)
    assert not passed and "guards tool: no such file or folder" in printed
