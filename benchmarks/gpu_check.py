"""Whether training, resuming, merging and evaluating work on this GPU, with speed and memory. Needs no weights and no network.

    python -m benchmarks.gpu_check                  # on a GPU
    python -m benchmarks.gpu_check nf4 --out FILE   # one of the two cases; the result also into a file
    python -m benchmarks.gpu_check --tiny           # tiny models; always so where there is no GPU

Two cases, each a published recipe on a base model with random weights: `nf4` is Gemma 2 2B in 4 bits with a paged 8-bit optimiser,
`int8` is GPT-J 6B in 8 bits with 4 of its 28 layers. The result is JSON on standard output, the log goes to standard error. The exit
code is 0 if every part passed, and 1 otherwise.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts import CASES, CUT, STEPS, run_of
from tasks.errors import InterruptedRunError
from tasks.process.child import Child
from tasks.settings import TELEMETRY_OFF
from tasks.workspace.checkpoint_files import newest_whole, step_of

CHECKOUT = Path(__file__).resolve().parent.parent
POLL_SECONDS = 0.02
TAIL_LINES = 30
"""Lines of a process's log that the result quotes where it ended before its time."""


def check(case: str, folder: Path, *, tiny: bool, deadline: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run all parts of a case, in three processes: a crash ends only the parts of its own process.

    Args:
        case: name of the case.
        folder: empty, with room for the base model, the merged model and the checkpoints.
        tiny: tiny models also where there is a GPU.
        deadline: monotonic time at which whatever still runs is ended.

    Returns:
        What the first process says of device and libraries, and what each part found.
    """
    about, parts = _perform(case, folder, ("base", "train", "merge", "parity"), tiny=tiny, deadline=deadline)
    parts["stop"] = _stop(case, folder, deadline)
    _, resumed = _perform(case, folder, ("resume",), tiny=tiny, deadline=deadline)
    return about, parts | resumed


def _perform(case: str, folder: Path, names: Sequence[str], *, tiny: bool, deadline: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parts in one process; one that it did not come to is told with the end of its log."""
    report = folder / f"{names[0]}.jsonl"
    options = ["--tiny"] if tiny else []
    ending, log = _run(["benchmarks.gpu_parts", case, str(folder), str(report), *names, *options], folder, deadline)
    written = report.read_text(encoding="utf-8") if report.exists() else ""
    lines = [json.loads(line) for line in written.split("\n")[:-1]]  # what follows the last end of a line was cut off
    parts = {line.pop("part"): line for line in lines if "part" in line}
    about = next((line["about"] for line in lines if "about" in line), {})
    return about, {name: parts.get(name, {"ok": False, "error": f"not run: its process {ending}", "log": log}) for name in names}


def _stop(case: str, folder: Path, deadline: float) -> dict[str, Any]:
    """SIGTERM in the middle of a training, from outside, to the product's own command."""
    run, began = run_of(folder, CASES[case], CUT), time.monotonic()
    kept = run.folder / "train" / "g0-kept"
    ending, log = _run(["tasks", "train", "--run", run.uri], folder, deadline, lambda: newest_whole(kept) is not None)
    step, expected = step_of(newest_whole(kept)), f"ended with exit code {InterruptedRunError.exit_code}"
    found = {"ok": ending == expected and 0 < step < STEPS, "checkpoint_step": step, "seconds": round(time.monotonic() - began, 1)}
    if not found["ok"]:
        found |= {
            "error": f"its process {ending}, newest checkpoint at step {step} (expected: {expected}, before step {STEPS})",
            "log": log,
        }
    return found


def _run(command: Sequence[str], folder: Path, deadline: float, stop_once: Callable[[], bool] | None = None) -> tuple[str, list[str]]:
    """Run a module in a process of its own until the deadline.

    Args:
        command: the module and its arguments.
        folder: holds the LORAFLOW_HOME of all processes of a case.
        deadline: monotonic time.
        stop_once: what has to be so before the process gets SIGTERM; without it, it gets none.

    Returns:
        How it ended, and the end of its log.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LORAFLOW_", "MLFLOW_"))}
    ours = {"LORAFLOW_HOME": str(folder), "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    log: deque[str] = deque(maxlen=TAIL_LINES)
    if time.monotonic() >= deadline:
        return "was not started: no time was left. Fix: raise --seconds", []
    with Child([sys.executable, "-m", *command], kept | ours | TELEMETRY_OFF, CHECKOUT) as child:
        with _ended_at(deadline, child) as late, _stopped(child, stop_once) if stop_once else nullcontext():
            for line in child.lines():
                print(line, file=sys.stderr, flush=True)
                log.append(line)
        code = child.wait()
    if late.is_set():
        return "was ended: no time was left. Fix: raise --seconds", list(log)
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}", list(log)


@contextmanager
def _ended_at(deadline: float, child: Child) -> Iterator[threading.Event]:
    """Inside, the child is ended at the deadline; yields whether it was."""
    late = threading.Event()
    timer = threading.Timer(deadline - time.monotonic(), lambda: (late.set(), child.end()))
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
        timer.join()


@contextmanager
def _stopped(child: Child, once: Callable[[], bool]) -> Iterator[None]:
    """Inside, the child gets SIGTERM once something is so."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            if once():
                with suppress(ProcessLookupError):  # it may have ended by itself
                    os.kill(child.pid, signal.SIGTERM)
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def main(arguments: list[str] | None = None) -> None:
    """Check the cases and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="case", help=f"one of {', '.join(CASES)}; default: all")
    parser.add_argument("--tiny", action="store_true", help="tiny models also where there is a GPU")
    parser.add_argument("--seconds", type=float, default=600, help="time limit; the parts that it cuts off count as failed (default: 600)")
    parser.add_argument("--folder", type=Path, help="folder for temporary files, about 16 GB (default: the system's)")
    parser.add_argument("--out", type=Path, help="file that gets the result as well")
    given = parser.parse_args(arguments)
    if unknown := [case for case in given.cases if case not in CASES]:
        parser.error(f"there is no case {unknown[0]} (expected: {' or '.join(CASES)})")
    began, date = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    about: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for case in given.cases or CASES:
        with tempfile.TemporaryDirectory(prefix="gpu-check-", dir=given.folder) as name:
            told, found[case] = check(case, Path(name), tiny=given.tiny, deadline=began + given.seconds)
            about = about or told
    ok = all(part["ok"] for parts in found.values() for part in parts.values())
    text = json.dumps({"ok": ok, "date": date, **about, "seconds": round(time.monotonic() - began, 1), "cases": found}, indent=2)
    print(text)
    if given.out:
        given.out.write_text(f"{text}\n", encoding="utf-8")
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
