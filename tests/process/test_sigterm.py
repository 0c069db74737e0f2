"""SIGTERM, from outside, to real processes: a training is saved first, everything else ends at once."""

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tasks.workspace.checkpoint_files import newest_whole, step_of
from tasks.workspace.perform import perform
from tests.support import tiny
from tests.support.processes import apart, ended, losses, step, until

pytestmark = pytest.mark.trains

STEPS = 45
"""Three epochs of 15 steps of 8 rows, the last of them of one."""


def document(base: Path, **train: Any) -> dict[str, Any]:
    found = tiny.recipe_document(base, base / "none.csv")
    found["train"] |= {"logging_steps": 1, "save_steps": 4} | train
    return found


@pytest.mark.parametrize(("sampling", "halved"), [("random", False), ("group_by_length", True)])
def test_a_training_saves_a_last_checkpoint_and_goes_on_from_it(
    home: Path, tiny_base: Path, sampling: str, halved: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    rows, recipe = tiny.tweets(173), document(tiny_base, train_sampling_strategy=sampling)
    whole = tiny.start_at_train(home / "runs/tiny/whole", tiny_base, rows, recipe)
    cut = tiny.start_at_train(home / "runs/tiny/cut", tiny_base, rows, recipe)
    perform("train", whole)
    kept = cut.folder / "train" / "g0-kept"
    with step("train", cut) as process:
        until(lambda: step_of(newest_whole(kept)) > STEPS // 3, process)  # in the second epoch
        process.send_signal(signal.SIGTERM)
        code, printed = ended(process)
    assert code == 143, printed
    block = r"\n\nInterruptedRunError\ntrain: SIGTERM stopped it at step (\d+) of 45, with a checkpoint. Fix: a retry goes on from there\n$"
    stopped = re.search(block, printed)
    assert stopped and "train: SIGTERM: this step is brought to its end and saved" in printed, printed
    assert step_of(newest_whole(kept)) == int(stopped[1]) < STEPS
    assert not (cut.folder / "train.json").exists()
    if halved:
        cut.note_out_of_memory("train", 0)
    capfd.readouterr()
    again: Any = perform("train", cut)
    assert re.findall(r"^train: training (\d+)/45", capfd.readouterr().err, re.MULTILINE)[0] == stopped[1], "it began at 0 again"
    assert (again.resumed_from_step, again.steps, again.halvings) == (int(stopped[1]), STEPS, int(halved))
    assert apart(whole, cut) < 1e-5
    assert losses(cut) == pytest.approx(losses(whole), abs=1e-5) and len(losses(cut)) == STEPS


def test_a_training_that_was_saved_at_its_end_is_not_trained_further(home: Path, tiny_base: Path) -> None:
    rows, recipe = tiny.tweets(124), document(tiny_base, max_steps=5, save_steps=5)  # eight steps an epoch
    whole, again = (tiny.start_at_train(home / f"runs/tiny/{name}", tiny_base, rows, recipe) for name in ("whole", "again"))
    perform("train", whole)
    killed = "from tasks import train\ntrain.save = lambda *_: __import__('os').kill(__import__('os').getpid(), 9)"
    with step("train", again, code=killed) as process:
        assert ended(process)[0] == -signal.SIGKILL
    found: Any = perform("train", again)
    assert (found.resumed_from_step, found.steps) == (5, 5)
    assert apart(whole, again) == 0


def test_any_other_step_ends_at_once(home: Path, tiny_base: Path) -> None:
    run = tiny.start_at_train(home / "runs/tiny/waiting", tiny_base, tiny.tweets(120))
    with FileLock(run.folder / "merge.lock"), step("merge", run) as process:  # it waits for its predecessor to die
        assert process.stderr and "merge: run tiny/waiting" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        code, printed = ended(process)  # though the lock is still held
    assert (code, printed) == (143, "\nInterruptedRunError\nmerge: ended by SIGTERM. Fix: a retry goes on from what is whole\n")


@pytest.mark.parametrize("signals", [1, 2])
def test_the_second_one_ends_the_process_in_the_midst_of_its_work(signals: int) -> None:
    code = (
        "import os, sys\nfrom tasks.process import sigterm\nsigterm.listen('train')\n"
        "with sigterm.on_sigterm(lambda: os.write(1, b'noticed\\n')) as asked:\n"  # print may be in the midst of its own
        "    print('up', flush=True)\n    sys.stdin.readline()\n    print(asked(), flush=True)\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as process:
        assert process.stdout and process.stdout.readline() == "up\n"
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
            if process.poll() is None and _ == 0:
                assert process.stdout.readline() == "noticed\n"
        if signals == 2:
            process.wait(60)  # its work has not come to an end
        out, printed = process.communicate("\n" if signals == 1 else None, timeout=60)
    if signals == 1:
        assert (process.returncode, out, printed) == (0, "True\n", "")
    else:
        assert (process.returncode, out) == (143, "")
        assert printed == "\nInterruptedRunError\ntrain: ended at once, by a second SIGTERM. Fix: a retry goes on from what is whole\n"


def test_outside_a_command_the_handler_is_as_it_was() -> None:
    from tasks.process import sigterm

    before = signal.getsignal(signal.SIGTERM)
    with sigterm.on_sigterm(lambda: None) as asked:
        signal.raise_signal(signal.SIGTERM)
        assert asked()
    assert signal.getsignal(signal.SIGTERM) == before
    with sigterm.on_sigterm(lambda: None) as asked:
        assert not asked()
    sigterm.exit_if_asked()
