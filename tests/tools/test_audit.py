"""The audit of the pinned packages: what it asks for, what it makes of answers, and what of silence."""

import importlib.util
import os
import subprocess
import sys
from datetime import date
from typing import Any

import pytest

from tasks.settings import CHECKOUT

pytestmark = pytest.mark.guards(".ci", "requirements.lock", "docker/airflow.lock")

spec = importlib.util.spec_from_file_location("audit", CHECKOUT / ".ci" / "audit.py")
assert spec and spec.loader
audit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit)


def answer(name: str, *vulnerabilities: tuple[str, list[str], list[str]]) -> dict[str, Any]:
    """As pip-audit writes it."""
    found = [{"id": id_, "fix_versions": fixes, "aliases": aliases, "description": "…"} for id_, fixes, aliases in vulnerabilities]
    return {"name": name, "version": "1.0", "vulns": found}


def test_every_package_of_the_locks_is_asked_for() -> None:
    assert {str(path.relative_to(CHECKOUT)) for path in audit.LOCKS} == {"requirements.lock", "docker/airflow.lock"}
    for path in audit.LOCKS:
        lock = path.read_text(encoding="utf-8")
        pins = audit.pins(lock)
        assert len(pins) == sum("==" in line and not line.startswith((" ", "#")) for line in lock.splitlines()) > 150, path.name
        assert not any("\\" in pin or "hash" in pin for pin in pins)
    assert "torch==2.13.0" in audit.pins(audit.LOCKS[0].read_text(encoding="utf-8"))


def test_a_package_with_two_pins_is_asked_for_twice() -> None:
    assert list(audit.rounds(["a==1", "b==1", "a==2"])) == [["a==1", "b==1"], ["a==2"]]
    pins = [pin for path in audit.LOCKS for pin in audit.pins(path.read_text(encoding="utf-8"))]
    assert sorted(pin for each in audit.rounds(pins) for pin in each) == sorted(set(pins))


def test_a_call_that_is_wrong_is_no_silence() -> None:
    with pytest.raises(SystemExit, match="pip-audit failed"):
        audit.ask(["no requirement ]["])  # refused before anything is asked for


def test_what_a_newer_version_mends_is_to_be_mended() -> None:
    answers = [answer("good"), answer("bad", ("PYSEC-1", ["1.1"], ["CVE-1"])), {"name": "odd", "skip_reason": "not found"}]
    lines, broken = audit.report(answers, set())
    assert broken and lines == [
        "audit: bad 1.0: PYSEC-1, mended in 1.1",
        "audit: not known to the service: odd",
        "audit: 2 packages looked at, 1 advisories",
    ]
    assert not audit.report([answer("bad", ("PYSEC-1", [], []))], set())[1], "nothing to change to"


@pytest.mark.parametrize("named", ["PYSEC-1", "CVE-1"])
def test_an_exception_holds_for_its_package_until_its_day(named: str) -> None:
    text = f"- {{package: bad, id: {named}, until: 2027-01-31, reason: not used}}"
    answers = [answer("bad", ("PYSEC-1", ["1.1"], ["CVE-1"]))]
    assert not audit.report(answers, audit.accepted(text, date(2027, 1, 31)))[1]
    assert audit.report(answers, audit.accepted(text, date(2027, 2, 1)))[1]
    assert audit.report([answer("other", ("PYSEC-1", ["1.1"], ["CVE-1"]))], audit.accepted(text, date(2027, 1, 1)))[1]


@pytest.mark.parametrize("text", ["- {package: a, id: b, until: 2027-01-31}", "- {package: a, id: b, until: soon, reason: c}"])
def test_an_exception_has_a_reason_and_a_day(text: str) -> None:
    with pytest.raises(SystemExit, match=r"until \(a date\) and reason expected"):
        audit.accepted(text, date(2026, 1, 1))


def test_silence_is_told_and_passes() -> None:
    nowhere = {**os.environ, "HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_PROXY": "", "no_proxy": ""}
    done = subprocess.run([sys.executable, str(CHECKOUT / ".ci" / "audit.py")], env=nowhere, capture_output=True, text=True, timeout=500)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, audit.SILENT)


def test_the_shipped_exceptions_are_sound() -> None:
    audit.accepted(audit.ACCEPTED.read_text(encoding="utf-8"), date.today())
