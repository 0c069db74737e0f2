"""Tests of test tools and of rare cases run when what they guard has changed: `pytest.mark.guards("docker/pin.sh", …)`.

A test with this mark is left out unless one of these holds:

- `--all` is given, as `make test-all` does;
- its file, or a folder that contains it, is named on the command line (`tests` itself does not count);
- one of the named paths, or its own file, differs from the base, or git cannot say.

The base is where the branch left `origin/main`; on `origin/main` itself, or without a remote, the commit before the last one.
"""

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tasks.settings import CHECKOUT

BRANCHES = ("origin/HEAD", "origin/main")
UNKNOWN = "git cannot say what has changed"
LEFT_OUT = pytest.StashKey[int]()


class Unknown(Exception):
    """Git does not answer: no repository, no such commit in a shallow clone."""


def git(checkout: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=checkout, capture_output=True, text=True)
    except OSError as error:  # git is not installed
        raise Unknown from error
    if done.returncode:
        raise Unknown
    return done.stdout


def base(checkout: Path) -> str:
    """The commit that the checkout is compared with.

    Raises:
        Unknown: there is none.
    """
    head = git(checkout, "rev-parse", "HEAD").strip()
    for branch in BRANCHES:
        try:
            git(checkout, "rev-parse", "--verify", "--quiet", f"{branch}^{{commit}}")
        except Unknown:
            continue
        if (left := git(checkout, "merge-base", "HEAD", branch).strip()) != head:
            return left
        break
    return git(checkout, "rev-parse", "--verify", "--quiet", "HEAD~1").strip()


def changed(checkout: Path) -> set[str] | None:
    """Files that differ from the base, committed or not; None where git cannot say."""
    try:
        if Path(git(checkout, "rev-parse", "--show-toplevel").rstrip("\n")).resolve() != checkout.resolve():
            return None  # an unpacked archive within some other repository
        differing = git(checkout, "diff", "--name-only", "--no-renames", "-z", base(checkout))
        new = git(checkout, "ls-files", "--others", "--exclude-standard", "-z")
    except Unknown:
        return None
    return set(filter(None, (differing + new).split("\0")))


def guarded(item: pytest.Item) -> set[str]:
    """The paths whose changes let a test run; empty for one that always runs.

    Raises:
        UsageError: one of them does not exist.
    """
    paths = {path for mark in item.iter_markers("guards") for path in mark.args}
    if missing := sorted(path for path in paths if not (CHECKOUT / path).exists()):
        raise pytest.UsageError(
            f"{item.nodeid}: guards {', '.join(missing)}: no such file or folder (expected: paths from the checkout's root)"
        )
    return paths | {item.path.relative_to(CHECKOUT).as_posix()} if paths else set()


def runs(item: pytest.Item, named: Iterable[Path], files: set[str]) -> bool:
    """Whether a test runs where these are named on the command line and those files have changed."""
    paths = guarded(item)
    return (
        not paths or any(item.path.is_relative_to(path) for path in named) or any(_within(file, path) for file in files for path in paths)
    )


def _within(file: str, path: str) -> bool:
    return Path(file).is_relative_to(path)


def named_on_the_command_line(config: pytest.Config) -> list[Path]:
    """Files and folders that were named, but for those that hold all tests."""
    paths = [(config.invocation_params.dir / argument.partition("::")[0]).resolve() for argument in config.args]
    return [path for path in paths if not (CHECKOUT / "tests").is_relative_to(path)]


# Hooks, which tests/conftest.py hands to pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also run the tests that guard files which have not changed")


def pytest_report_header(config: pytest.Config) -> str:
    if config.getoption("--all"):
        return "guards: all tests run (--all)"
    files = changed(CHECKOUT)
    if files is None:
        return f"guards: all tests run, since {UNKNOWN}"
    return f"guards: {len(files)} files differ from {base(CHECKOUT)[:7]}; tests that guard only others are left out (--all runs them)"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    files = None if config.getoption("--all") else changed(CHECKOUT)
    named = named_on_the_command_line(config)
    left_out = [item for item in items if not runs(item, named, files or set())]  # looked at in any case, for paths that are gone
    if files is None or not left_out:
        return
    config.hook.pytest_deselected(items=left_out)
    config.stash[LEFT_OUT] = len(left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # a process of xdist, whose summary is written by another one
        session.config.workeroutput["left out"] = session.config.stash.get(LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    output = getattr(node, "workeroutput", None) or {}
    node.config.stash[LEFT_OUT] = max(output.get("left out", 0), node.config.stash.get(LEFT_OUT, 0))  # each has collected all


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if count := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(f"guards: {count} tests left out, since what they guard has not changed (--all runs them)")
