"""A laptop's user at the shell: the commands as processes of their own, on a home and ports that nobody else has."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from tasks.local_servers import supervisor
from tasks.local_servers.configuration import MARK, Places
from tasks.settings import CHECKOUT
from tasks.workspace.progress import read_position
from tasks.workspace.run import Run
from tests.support.loopback import free_port
from tests.support.quick_steps import with_quick_steps

WAIT_SECONDS = 1200


def wait_until(what: Callable[[], Any], expected: str, process: subprocess.Popen[str] | None = None) -> Any:
    """What is found, once it is; fails where the process that is to bring it about ends first."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (value := what()):
        if process is not None and process.poll() is not None:
            raise AssertionError(f"ended before {expected}: {process.communicate()[0]}")
        assert time.monotonic() < deadline, f"not in {WAIT_SECONDS} s: {expected}"
        time.sleep(0.2)
    return value


class Shell:
    """The user's shell: a home, free ports, and recipes.

    Attributes:
        places: where the servers' files lie.
    """

    def __init__(self, folder: Path, documents: Mapping[str, Any]) -> None:
        self.places = Places(folder / "home")
        recipes = folder / "recipes"
        recipes.mkdir(parents=True)
        for name, document in documents.items():
            (recipes / f"{name}.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        ports = [free_port(), free_port()]
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("LORAFLOW_", "MLFLOW_", "AIRFLOW_"))}
        self.env |= {"LORAFLOW_HOME": str(self.places.home), "LORAFLOW_RECIPES": str(recipes), "OMP_NUM_THREADS": "2"}
        self.env |= {"LORAFLOW_AIRFLOW_PORT": str(ports[0]), "LORAFLOW_MLFLOW_PORT": str(ports[1])}
        self._earlier: set[Path] = set()
        self._real_steps = folder / "real-steps"

    def use_quick_steps(self) -> None:
        """Let the servers run quick steps from their next start on; Airflow's own settings say so to its tasks."""
        changes = dict(with_quick_steps({}, self._real_steps))
        file = self.places.airflow / "config" / "airflow_local_settings.py"
        file.parent.mkdir(parents=True)
        file.write_text(f"import os\n\nos.environ.update({changes!r})\n", encoding="utf-8")

    @contextmanager
    def real_steps(self) -> Iterator[None]:
        """Let the steps that start in this block be the real ones."""
        self._real_steps.touch()
        yield
        self._real_steps.unlink()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command as a terminal does: it hears Ctrl-C, also where these tests run in the background and do not."""
        command = (sys.executable, "-m", "tasks", *arguments)
        if arguments[0] == "retrain":
            self._earlier = set(self._runs())
        heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # what is ignored here would be ignored by the child
        try:
            return subprocess.Popen(command, env=self.env, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        finally:
            signal.signal(signal.SIGINT, heard)

    def type(self, *arguments: str) -> tuple[int, str]:
        """Run a command to its end; exit code and what it printed, without spaces at the ends of lines."""
        process = self.start(*arguments)
        said, _ = process.communicate(timeout=WAIT_SECONDS)
        return process.returncode, re.sub(r" +$", "", said, flags=re.M)

    def processes(self) -> list[psutil.Process]:
        """Whatever the servers are and have started."""
        state = supervisor.read_state(self.places)
        found = []
        for process in psutil.process_iter():
            try:
                if state and process.environ().get(MARK) == state.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def training(self) -> Path | None:
        """Folder of the run that is in the middle of its training; runs from before the last `retrain` do not count."""
        return next(filter(trains, set(self._runs()) - self._earlier), None)

    def _runs(self) -> Iterator[Path]:
        return (self.places.home / "runs").glob("*/*")

    def run_states(self) -> dict[str, str]:
        """State of each run, as Airflow's database has it."""
        with sqlite3.connect(self.places.airflow / "airflow.db") as connection:
            return dict(connection.execute("SELECT run_id, state FROM dag_run"))


def trains(folder: Path) -> bool:
    """Whether the run in a folder is in the middle of its training."""
    position = read_position(Run(folder))
    at_work = position and position.step == "train" and 0 < position.done < position.total
    return bool(position and at_work and time.time() - position.at < 5)
