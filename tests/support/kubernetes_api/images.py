"""What images hold, as far as a command sees it: this environment's Python, and variables."""

import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.quick_steps import with_quick_steps

CHECKOUT = Path(__file__).resolve().parents[3]
STEPS = "loraflow/steps:test"
"""The image of the steps: this checkout and its environment."""
QUICK_STEPS = "loraflow/quick-steps:test"
"""The same with the quick steps of tests/support/quick_steps."""
REFERENCE = re.compile(
    r"[a-z0-9]([a-z0-9._:-]*[a-z0-9])?(/[a-z0-9]([a-z0-9._-]*[a-z0-9])?)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[a-f0-9]{64})?"
)


@dataclass(frozen=True)
class Image:
    """An image's part in a container.

    Attributes:
        env: environment that it sets.
        entrypoint: what runs where a container names no command.
        user: the user that it runs as, unless the pod says another.
    """

    env: dict[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    user: int = 0

    def environment(self) -> dict[str, str]:
        """Every variable that a command finds before the pod adds its own."""
        path = os.pathsep.join((str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"))
        return {"PATH": path, **self.env}

    def command(self, argv: list[str]) -> list[str]:
        """The command with this environment's interpreter in the place of `python`."""
        return [sys.executable, *argv[1:]] if argv[0] in ("python", "python3") else argv


def known_images() -> dict[str, Image]:
    """The images that every fake knows; the public ones are there on a real cluster too."""
    plain = Image(env={"PYTHONUNBUFFERED": "1"})
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # many tiny trainings share few cores here
    env = {"PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1", **threads}
    steps, quick = Image(env=env, user=1000), Image(env=with_quick_steps(env), user=1000)
    return {STEPS: steps, QUICK_STEPS: quick, "python:3.11-slim": plain}
