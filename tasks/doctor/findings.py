"""Checks that are done all at once, what they find, and what follows from it."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from rich.markup import escape
from rich.table import Column, Table

from tasks.contracts import Finding
from tasks.errors import LoraflowError, PreflightError, ServiceError, explain
from tasks.secrets.redaction import in_one_line, without_secrets

SECONDS = 60.0
"""A check that has not ended by then waits for something that does not answer."""

COLOURS = {"ok": "green", "warning": "yellow", "fault": "red"}


@dataclass(frozen=True)
class Check:
    """One thing to look at."""

    what: str
    look: Callable[[], Iterable[Finding]]
    """Gives findings; a LoraflowError that it raises is a finding too."""


def good(what: str, found: str) -> Finding:
    """All is as it must be."""
    return Finding(what, "ok", found)


def warning(what: str, found: str, remedy: str) -> Finding:
    """The run may fail, or something is odd."""
    return Finding(what, "warning", found, remedy)


def fault(what: str, found: str, remedy: str, *, passing: bool = False) -> Finding:
    """The run would fail; `passing`: unless this mends itself."""
    return Finding(what, "fault", found, remedy, passing)


def of_error(what: str, error: LoraflowError) -> Finding:
    """What a step would have failed with."""
    return fault(what, f"{error.where}: {explain(error.found, error.expected)}", error.remedy, passing=error.retryable)


def examine(checks: Sequence[Check], seconds: float = SECONDS) -> tuple[Finding, ...]:
    """Do all checks at the same time.

    Args:
        checks: what to look at.
        seconds: how long they may take, all together; most of what they do is to wait for a network.

    Returns:
        The findings, in the order of the checks, without secrets.
    """
    found: list[list[Finding]] = [[] for _ in checks]
    # Daemons: one that never ends must not keep the process from ending.
    threads = [threading.Thread(target=_do, args=pair, daemon=True) for pair in zip(checks, found, strict=True)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread, check, findings in zip(threads, checks, found, strict=True):
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            findings.append(fault(check.what, f"no answer in {seconds:.0f} s", "look at the service and the network", passing=True))
    return tuple(_shown(finding) for findings in found for finding in tuple(findings))


def _do(check: Check, findings: list[Finding]) -> None:
    try:
        findings.extend(check.look())  # takes what comes before an error too
    except LoraflowError as error:
        findings.append(of_error(check.what, error))
    except Exception as error:  # a check that breaks is no reason to stop a run, and none to keep silent
        said = in_one_line(error)
        findings.append(warning(check.what, f"could not be looked at ({type(error).__name__}: {said})", "look at it by hand"))


def _shown(finding: Finding) -> Finding:
    return replace(finding, found=without_secrets(finding.found), remedy=without_secrets(finding.remedy))


def table(findings: Sequence[Finding]) -> Table:
    """The findings for a terminal."""
    shown = Table("", "what", *(Column(head, overflow="fold") for head in ("found", "what to do")))
    for finding in findings:
        colour = COLOURS[finding.level]
        shown.add_row(f"[{colour}]{finding.level}[/]", *map(escape, (finding.what, finding.found, finding.remedy)))
    return shown


def lines(findings: Sequence[Finding]) -> list[str]:
    """The findings for a log, a line each."""
    return [f"{finding.level:<7} {_line(finding)}" for finding in findings]


def stop_at_faults(where: str, findings: Sequence[Finding]) -> None:
    """Raise where there are faults, all of them in one report.

    Args:
        where: what was looked at, for the message.
        findings: what was found.

    Raises:
        PreflightError: somebody has to mend something.
        ServiceError: all faults are of services that did not answer; a retry may find them.
    """
    faults = [finding for finding in findings if finding.level == "fault"]
    if not faults:
        return
    passing = all(finding.passing for finding in faults)
    kind = ServiceError if passing else PreflightError
    found = f"{len(faults)} of {len(findings)} findings {'is a fault' if len(faults) == 1 else 'are faults'}"
    remedy = "see whether the services are up" if passing else "mend what they name, then run it again"
    raise kind(where, found, "none", remedy + "".join(f"\n  {_line(finding)}" for finding in faults))


def _line(finding: Finding) -> str:
    return f"{finding.what}: {explain(finding.found, fix=finding.remedy)}"
