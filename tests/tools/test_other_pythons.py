"""`make test-all`: it finds interpreters, says which are missing, and fails where one of them does."""

import os
import sys
from pathlib import Path

import pytest

from tests.support import other_pythons

pytestmark = pytest.mark.guards("tests/support/other_pythons.py", "environment.py")

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("place", ["on PATH", "of pyenv, behind a shim that fails"])
def test_an_interpreter_is_found(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = f'exec "{os.path.realpath(sys.executable)}" "$@"'
    on_path, of_pyenv = tmp_path / "bin" / f"python{OWN}", tmp_path / f"versions/{OWN}.1/bin/python{OWN}"
    script(on_path, real if place == "on PATH" else "exit 127")
    script(of_pyenv, real)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    found = other_pythons.interpreter(OWN)
    assert found and os.path.realpath(sys.executable) == os.path.realpath(found)


def test_a_missing_interpreter_is_told_and_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert other_pythons.main([OWN, "3.99"], ["-c", "raise SystemExit(1)"])
    assert capsys.readouterr().out == "test-all: Python 3.99: not tested, no such interpreter on this machine\n"


@pytest.mark.parametrize(
    ("setup", "tests", "result"), [("pass", "pass", "passed"), ("pass", "1/0", "tests failed"), ("1/0", "pass", "set-up failed")]
)
def test_a_version_that_fails_is_told_and_fails(
    setup: str, tests: str, result: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "environment.py").write_text(setup)
    (tmp_path / ".venv-3.99" / "bin").mkdir(parents=True)
    (tmp_path / ".venv-3.99" / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(other_pythons, "CHECKOUT", tmp_path)
    monkeypatch.setattr(other_pythons, "interpreter", lambda version: sys.executable)
    assert other_pythons.main(["3.99"], ["-c", tests]) is (result == "passed")
    assert capsys.readouterr().out == f"test-all: Python 3.99: {result}\n"
