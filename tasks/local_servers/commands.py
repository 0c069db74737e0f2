"""What `loraflow up`, `down`, `retrain` and `demo` do."""

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType

from tasks.errors import LoraflowError
from tasks.local_servers import start_stop
from tasks.local_servers.airflow_api import Airflow
from tasks.local_servers.follow import Follower
from tasks.local_servers.supervisor import State
from tasks.schema.form import Form
from tasks.settings import settings
from tasks.workspace.location import run_folder
from tasks.workspace.run import Run
from tasks.workspace.summary import summary, terminal


def up() -> None:
    """Start the servers and say where they are."""
    console = terminal()
    with _signals_unwind():
        state = start_stop.up(console)
    console.print(f"{_addresses(state)}\nTo end them: make down (loraflow down)", highlight=False, soft_wrap=True)


def down() -> None:
    """End the servers."""
    console = terminal()
    console.print("ended" if start_stop.down(console) else "nothing to end")


def retrain(recipe: str, values: Mapping[str, str]) -> bool:
    """Retrain a recipe through Airflow and show how it went; whether it went well.

    Args:
        recipe: its name.
        values: field of the trigger form → what was typed for it.

    Raises:
        LoraflowError: the recipe, a value or a server is at fault.
    """
    console = terminal()
    filled = Form.read(settings().recipes / f"{recipe}.yaml").fill(values)  # before anything is started for it
    for line in filled.warnings():
        console.print(f"warning: {line}", highlight=False, soft_wrap=True, markup=False)
    with _signals_unwind(), start_stop.running(console) as state:
        console.print(_addresses(state), highlight=False, soft_wrap=True)
        follower = Follower(Airflow(state.airflow), recipe, console)
        follower.trigger(filled.conf(), state.started)
        run = Run(run_folder(settings().runs_folder, recipe, follower.run_id))
        try:
            good = follower.follow(run)
        except BaseException:
            with suppress(LoraflowError):  # the servers may be gone, and the run with them
                follower.stop()
            raise
    console.print(summary(run))
    console.print(f"To look at it in the UIs: make up, then\n{_addresses(state)}", highlight=False, soft_wrap=True)
    return good


def _addresses(state: State) -> str:
    return f"Airflow {state.airflow}" + (f" · MLflow {state.mlflow}" if state.mlflow else "")


@contextmanager
def _signals_unwind() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does: what was started in it is ended."""

    def unwind(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, unwind) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
