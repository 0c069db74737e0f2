"""Ask the advisory service for known vulnerabilities of what the locks pin: `python .ci/audit.py`.

It fails on one that a newer version mends, unless `.ci/advisories.yaml` says until when it is accepted, and why. Where the service
does not answer, as on a machine without the network, it says so and passes: what it would tell does not depend on the change at hand.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from tasks.schema import strict_yaml

HERE = Path(__file__).resolve().parent
LOCKS = (HERE.parent / "requirements.lock", HERE.parent / "docker" / "airflow.lock")
"""What an environment and the images of steps and MLflow hold, and what Airflow's image does."""
ACCEPTED = HERE / "advisories.yaml"
SECONDS = 120
UNREACHED = re.compile(r"ConnectionError|Could not connect|ConnectTimeout|ReadTimeout|ProxyError|SSLError|HTTPError|ServiceError")
SILENT = "audit: skipped, the advisory service does not answer"

Json = dict[str, Any]


def pins(lock: str) -> list[str]:
    """The pinned packages of a lock, without hashes: torch has none, and pip-audit takes all or none."""
    return [found[1] for line in lock.splitlines() if (found := re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*(?:\[[^\]]*\])?==[^\s;\\]+)", line))]


def rounds(requirements: list[str]) -> Iterator[list[str]]:
    """The packages in lists without a package twice, which pip-audit refuses: locks have pins for several Pythons, and share some."""
    left = requirements
    while left:
        now = {pin.partition("==")[0]: pin for pin in reversed(left)}
        yield list(now.values())
        left = [pin for pin in left if pin not in now.values()]


def ask(requirements: list[str]) -> list[Json] | None:
    """What pip-audit says of each package; None where the service did not answer."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("\n".join(requirements) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(file), "--no-deps", "--disable-pip", "--format", "json"]
        command += ["--progress-spinner", "off"]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return None
    try:
        answers: list[Json] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        if UNREACHED.search(done.stderr):
            return None
        raise SystemExit(f"audit: pip-audit failed\n{done.stderr[-2000:]}") from None
    # An index that holds packages but no advisories answers that it knows none of them.
    return answers if any("skip_reason" not in answer for answer in answers) else None


def accepted(text: str, today: date) -> set[tuple[str, str]]:
    """Package and advisory of the exceptions that still hold; each has a reason."""
    try:
        exceptions = strict_yaml.load(text) or []
    except strict_yaml.RepeatedKeysError as error:
        raise SystemExit(f"{ACCEPTED.name}: {error} (expected: one value for each key). Fix: keep one of them") from None
    for entry in exceptions:
        if set(entry) != {"package", "id", "until", "reason"} or not str(entry["reason"]).strip() or not isinstance(entry["until"], date):
            raise SystemExit(f"{ACCEPTED.name}: {entry}: package, id, until (a date) and reason expected")
    return {(entry["package"], entry["id"]) for entry in exceptions if entry["until"] >= today}


def report(answers: list[Json], exceptions: set[tuple[str, str]]) -> tuple[list[str], bool]:
    """Lines to print, and whether there is a vulnerability that has to be mended."""
    lines, broken = [], False
    for answer in answers:
        for found in answer.get("vulns", ()):
            names = {found["id"], *found.get("aliases", ())}
            fixes = ", ".join(found["fix_versions"])
            excused = any((answer["name"], name) in exceptions for name in names)
            broken |= bool(fixes) and not excused
            state = "accepted" if excused else f"mended in {fixes}" if fixes else "not mended by any version yet"
            lines.append(f"audit: {answer['name']} {answer['version']}: {found['id']}, {state}")
    unknown = [answer["name"] for answer in answers if "skip_reason" in answer]
    if unknown:
        lines.append(f"audit: not known to the service: {', '.join(sorted(unknown))}")
    lines.append(
        f"audit: {len(answers) - len(unknown)} packages looked at, {sum(len(each.get('vulns', ())) for each in answers)} advisories"
    )
    return lines, broken


def main() -> int:
    """Exit code: 1 where something has to be mended."""
    answers: list[Json] = []
    for requirements in rounds([pin for lock in LOCKS for pin in pins(lock.read_text(encoding="utf-8"))]):
        answered = ask(requirements)
        if answered is None:
            print(SILENT)
            return 0
        answers += answered
    lines, broken = report(answers, accepted(ACCEPTED.read_text(encoding="utf-8"), date.today()))
    print("\n".join(lines))
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
