"""Which commit a model version names, and when it says that the code differed from it."""

import subprocess
from pathlib import Path

import pytest

from tasks.registry import lineage
from tasks.settings import CHECKOUT

FILES = (
    "tasks/train.py", "tasks/data/page.html.j2", "tasks/recipes/tweets.yaml", "dags/retrain.py", "pyproject.toml", "requirements.lock",
    "docs/architecture.md", "README.md", "tests/test_train.py",
)  # fmt: skip
IGNORED = "__pycache__/\nlocal_*\n"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=somebody", "-c", "user.email=somebody@localhost")
    return subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clean checkout with a file of each sort."""
    folder = tmp_path / "a checkout, at 100%"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("first\n", encoding="utf-8")
    (folder / ".gitignore").write_text(IGNORED, encoding="utf-8")
    git(tmp_path, "init", "--quiet", str(folder))
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    assert lineage.code_commit(checkout) == (git(checkout, "rev-parse", "HEAD"), False)


@pytest.mark.parametrize("name", [name for name in FILES if "recipes/" not in name and name.startswith(("tasks", "dags", "py", "req"))])
def test_changed_code_counts_staged_or_not(checkout: Path, name: str) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    (checkout / name).write_text("second\n", encoding="utf-8")
    assert lineage.code_commit(checkout) == (commit, True)
    git(checkout, "add", name)
    assert lineage.code_commit(checkout) == (commit, True)
    git(checkout, "commit", "--quiet", "--message", "second")
    assert lineage.code_commit(checkout) == (git(checkout, "rev-parse", "HEAD"), False)


def test_removed_and_renamed_code_counts(checkout: Path) -> None:
    git(checkout, "mv", "tasks/train.py", "tasks/teach.py")
    assert lineage.code_commit(checkout)[1]
    git(checkout, "reset", "--hard", "--quiet")
    (checkout / "dags/retrain.py").unlink()
    assert lineage.code_commit(checkout)[1]


@pytest.mark.parametrize("name", ["tasks/new.py", "tasks/kinds/new.py", "tasks/card.md.j2", "dags/new.py", "tasks/local_patch.py"])
def test_new_code_counts_also_where_git_ignores_it(checkout: Path, name: str) -> None:
    (checkout / name).parent.mkdir(exist_ok=True)
    (checkout / name).write_text("new\n", encoding="utf-8")
    assert lineage.code_commit(checkout)[1]


@pytest.mark.parametrize(
    "name",
    [
        "tasks/recipes/reviews.yaml", "tasks/recipes/team/reviews.yaml", "recipes/reviews.yaml", "tasks/notes.txt", "tasks/.train.py.swp",
        "tasks/__pycache__/train.cpython-311.pyc", "dags/local_notes", "rows.csv", "notebook.py", "tests/test_new.py",
        "tasks/r\u00e9sum\u00e9 \n.md",
    ],
)  # fmt: skip
def test_a_new_file_that_no_run_executes_does_not_count(checkout: Path, name: str) -> None:
    (checkout / name).parent.mkdir(parents=True, exist_ok=True)
    (checkout / name).write_text("new\n", encoding="utf-8")
    assert lineage.code_commit(checkout) == (git(checkout, "rev-parse", "HEAD"), False)


@pytest.mark.parametrize("name", ["tasks/recipes/tweets.yaml", "README.md", "docs/architecture.md", "tests/test_train.py"])
def test_a_changed_file_that_no_run_executes_does_not_count(checkout: Path, name: str) -> None:
    """A recipe among them: its hash is a tag of its own."""
    (checkout / name).write_text("second\n", encoding="utf-8")
    git(checkout, "add", name)
    assert not lineage.code_commit(checkout)[1]


def test_a_shallow_clone_and_a_worktree_are_checkouts(checkout: Path, tmp_path: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    git(tmp_path, "clone", "--quiet", "--depth=1", checkout.as_uri(), "shallow")
    git(checkout, "worktree", "add", "--quiet", str(tmp_path / "beside"))
    for folder in (tmp_path / "shallow", tmp_path / "beside"):
        assert lineage.code_commit(folder) == (commit, False)
        (folder / "tasks/train.py").write_text("second\n", encoding="utf-8")
        assert lineage.code_commit(folder) == (commit, True)


def test_a_checkout_of_another_user_is_read(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert subprocess.run(["git", "-C", str(checkout), "status"], capture_output=True).returncode != 0
    assert lineage.code_commit(checkout) == (git(checkout, "-c", f"safe.directory={checkout}", "rev-parse", "HEAD"), False)


def test_the_index_of_the_checkout_is_left_as_it_is(checkout: Path) -> None:
    (checkout / "tasks/train.py").touch()
    before = (checkout / ".git/index").read_bytes()
    assert not lineage.code_commit(checkout)[1]
    assert (checkout / ".git/index").read_bytes() == before


def test_code_without_a_checkout_of_its_own_has_no_commit(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lineage.code_commit(tmp_path) == ("no checkout", False)
    installed = checkout / ".venv/lib/site-packages"  # a wheel in an environment inside somebody's repository
    (installed / "tasks").mkdir(parents=True)
    (installed / "tasks/train.py").write_text("other\n", encoding="utf-8")
    assert lineage.code_commit(installed) == ("no checkout", False)
    assert lineage.code_commit(CHECKOUT / "tasks") == ("no checkout", False)
    git(tmp_path, "init", "--quiet", "empty")
    assert lineage.code_commit(tmp_path / "empty") == ("no checkout", False)
    monkeypatch.setenv("PATH", str(tmp_path))  # no git there
    assert lineage.code_commit(checkout) == ("no checkout", False)


def test_code_in_an_image_says_what_it_was_built_from(tmp_path: Path) -> None:
    (tmp_path / "COMMIT").write_text(f"{'a' * 40}\n")
    assert lineage.code_commit(tmp_path) == ("a" * 40, False)
    (tmp_path / "COMMIT").write_text(f"{'a' * 40}-dirty\n")
    assert lineage.code_commit(tmp_path) == ("a" * 40, True)
