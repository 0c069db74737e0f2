"""The quick steps: each reads the manifests that the real one reads, and writes one like it."""

import sys
import time
from collections.abc import Callable

from tasks.contracts import (
    CONTRACTS,
    Adapter,
    Approval,
    BaseModelFiles,
    Comparison,
    DatasetParts,
    DatasetVersion,
    Download,
    Emissions,
    Evaluation,
    Manifest,
    MergedModel,
    Parity,
    Part,
    PartName,
    Plan,
    Point,
    Preflight,
    Promotion,
    Publication,
    RegisteredVersion,
    Score,
    SourceFile,
    TrackedRun,
    TrialScores,
    ValidRows,
    Verdict,
)  # fmt: skip
from tasks.errors import GateError, InterruptedRunError, Skip
from tasks.process import sigterm
from tasks.registry.tracking import URL_FILE
from tasks.schema.sweep_grid import trials_of
from tasks.settings import settings
from tasks.workspace.checkpoint_files import mark_whole, newest_whole, step_of
from tasks.workspace.outcome import no_publication
from tasks.workspace.progress import Progress
from tasks.workspace.run import Run

STEP_SECONDS = 0.01
"""Of one optimiser step: a test that kills a training in its middle asks for some hundred steps."""
HELD_SECONDS = 0.1
"""Between two looks whether a test still holds the step."""
ROWS = 400
NOTHING = Emissions(0.0, 0.0, 0.0, "world average", False, 1)
PARTS: dict[PartName, int] = {"train": 310, "validation": 30, "test": 60}


def preflight(run: Run) -> Preflight:
    """Nothing is checked."""
    return Preflight(())


def download(run: Run) -> Download:
    """The base model is named, and the data file's path; neither is read."""
    recipe = run.recipe
    source = SourceFile(str(recipe.data.source.file), str(recipe.data.source.file), "0" * 64, 1) if recipe.run.data == "new" else None
    return Download(BaseModelFiles(recipe.base_model.name, "0" * 64, "base"), source)


def validate(run: Run) -> ValidRows:
    """Every row is valid."""
    _only_new_data(run, "validate")
    run.read(Download)
    report = _written(run, "report.html", "<html></html>")
    return ValidRows(report, run.relative(run.attempt), report, ROWS, ROWS, {})


def split(run: Run) -> DatasetParts:
    """Parts of fixed sizes."""
    _only_new_data(run, "split")
    run.read(ValidRows)
    return DatasetParts(run.relative(run.attempt), _parts(run), {})


def version(run: Run) -> DatasetVersion:
    """Version 1: new to the recipe's first run alone."""
    run.read(Download)
    if run.recipe.run.data == "new":
        run.read(DatasetParts)
    first = _next_number(run, "version") == 1
    return DatasetVersion(f"data/{run.recipe.name}/v1", 1, first, f"{'0' * 32}.dir", "0" * 40, "quick", _parts(run))


def train(run: Run) -> Adapter:
    """Count optimiser steps, with progress, checkpoints, and an end by SIGTERM as the real training has them."""
    run.read(DatasetVersion)
    tracked, steps = _tracked(run), run.recipe.train.max_steps or 60
    run.put(URL_FILE, tracked.url)
    resumed = _count(run, steps)
    return Adapter(
        path=_written(run, "adapter/adapter_config.json", "{}"), tracked=tracked, rows=ROWS, steps=steps, epochs=1.0, final_loss=0.5,
        trainable_parameters=10, all_parameters=100, cut_rows=0, seconds=1.0, resumed_from_step=resumed, emissions=NOTHING,
        halvings=run.halvings("train"),
    )  # fmt: skip


def merge(run: Run) -> MergedModel:
    """A folder with a configuration."""
    run.read(Adapter)
    return MergedModel(_written(run, "model/config.json", "{}"), "float32", 7)


def evaluate(run: Run) -> Evaluation:
    """The gate passes, unless the learning rate is too small to learn anything."""
    run.read(MergedModel)
    learned = run.recipe.train.learning_rate > 1e-6
    verdict = Verdict(learned, (f"{'' if learned else 'refused: '}macro_f1 {0.9 if learned else 0.2:.3f} (floor 0.500)",))
    champion = _next_number(run, "promote") > 1
    page = _written(run, "report.html", "<html></html>")
    return Evaluation(
        rows=60, tuned=_scores(0.9 if learned else 0.2), base=_scores(0.3), majority=_scores(0.17),
        champion=_scores(0.9) if champion else None, champion_version=1 if champion else None, parity=Parity(16, 16, 0.0),
        verdict=verdict, predictions=page, figures={}, report=page,
    )  # fmt: skip


def register(run: Run) -> RegisteredVersion:
    """The next version of the recipe's runs; nothing is in MLflow."""
    for contract in (Adapter, MergedModel, Evaluation):
        run.read(contract)
    name, number = run.recipe.name, _next_number(run, "register")
    return RegisteredVersion(name, number, f"models:/{name}/{number}", f"{settings().mlflow_ui_url}/#/models/{name}/versions/{number}")


def promote(run: Run) -> Promotion:
    """By the run's policy, as the real one decides."""
    policy, number, found = run.recipe.run.promotion, run.read(RegisteredVersion).version, run.read(Evaluation)
    if policy == "never":
        return Promotion(False, policy, number, None, "run.promotion is never")
    reason = "; ".join(found.verdict.reasons)
    if policy == "manual":
        approval = run.read(Approval)
        reason = approval.reason if approval.approved else f"declined by {approval.by}: {approval.reason or 'no reason given'}"
        if not approval.approved:
            return Promotion(False, policy, number, None, reason)
    elif not found.verdict.passed:
        raise GateError(f"{run.recipe.name} version {number}", "the gate refused it", "every check to hold", reason)
    return Promotion(True, policy, number, found.champion_version, reason)


def push(run: Run) -> Publication:
    """A card in the attempt's folder, where the version was promoted."""
    if nothing := no_publication(run, run.read(Promotion)):
        raise nothing
    card = _written(run, "model/README.md", "# Quick\n")
    return Publication(card, card, card)


def sweep_plan(run: Run) -> Plan:
    """The trials of the recipe's grid."""
    run.read(DatasetVersion)
    tracked = _tracked(run)
    run.put(URL_FILE, tracked.url)
    return Plan(trials_of(run.recipe), tracked)


def sweep_trial(run: Run) -> TrialScores:
    """One of them, scored after each of its numbers of epochs."""
    one = next(each for each in run.read(Plan).trials if each.name == run.part)
    points = tuple(Point(epochs, _scores(0.5 + epochs / 100), _tracked(run)) for epochs in one.epochs)
    return TrialScores(one, _tracked(run), points, 60, 10, 1.0, NOTHING)


def sweep_compare(run: Run) -> Comparison:
    """The trials' sizes and epochs in a table."""
    trials = [run.read(TrialScores, part).trial for part in run.read(Plan).parts]
    epochs = sorted({each for trial in trials for each in trial.epochs})
    lines = [f"| macro_f1 after epochs | {' | '.join(f'{each:g}' for each in epochs)} |"]
    lines += [f"| {trial.rows} rows |" for trial in trials]
    print(*lines, sep="\n", file=sys.stderr)
    return Comparison(_written(run, "table.md", "\n".join(lines)), _written(run, "points.csv", ""), {})


def _wait(run: Run, step: str, until: Callable[[], bool] = lambda: False) -> None:
    """Wait while a test holds the step."""
    while run.get(f"{step}.held") and not until():
        time.sleep(HELD_SECONDS)


def _held(work: Callable[[Run], Manifest]) -> Callable[[Run], Manifest]:
    """The step, which waits before its work while a test holds it."""

    def step(run: Run) -> Manifest:
        _wait(run, work.__name__)
        return work(run)

    return step


globals().update({name: _held(globals()[name]) for name in CONTRACTS.keys() & globals().keys() - {"train"}})


def _only_new_data(run: Run, step: str) -> None:
    if run.recipe.run.data != "new":
        raise Skip(step, f"data is {run.recipe.run.data}", "done when that version was made")


def _count(run: Run, steps: int) -> int:
    """Count the steps of a training, from its newest checkpoint on; the step where it began."""
    began = step_of(newest_whole(run.kept))
    with Progress(run, "train", "training", steps, "steps") as progress, sigterm.on_sigterm(lambda: None) as asked:
        progress.start_at(began)
        for step in range(began + 1, steps + 1):
            time.sleep(STEP_SECONDS)
            if step == steps:
                _wait(run, "train", until=asked)
            progress.reach(step, "loss 0.5")
            if asked() or step % run.recipe.train.save_steps == 0:
                checkpoint = run.kept / f"checkpoint-{step}"
                checkpoint.mkdir(parents=True, exist_ok=True)
                (checkpoint / "trainer_state.json").write_text("{}", encoding="utf-8")
                mark_whole(checkpoint)
                run.save_checkpoint(checkpoint)
            if asked():
                found = f"SIGTERM stopped it at step {step} of {steps}, with a checkpoint"
                raise InterruptedRunError("train", found, "", "a retry goes on from there")
    return began


def _next_number(run: Run, step: str) -> int:
    """One more than the runs of this recipe beside this one that have done the step."""
    beside = run.folder.parent.glob(f"*/{step}.json")
    return 1 + len([path for path in beside if path.parent != run.folder])


def _tracked(run: Run) -> TrackedRun:
    return TrackedRun("0" * 32, "1", f"{settings().mlflow_ui_url}/#/experiments/1/runs/{'0' * 32}")


def _scores(value: float) -> dict[str, Score]:
    return {name: Score(value, value - 0.01, value + 0.01) for name in ("macro_f1", "accuracy")}


def _parts(run: Run) -> dict[PartName, Part]:
    return {name: Part(run.relative(run.attempt), rows, {"negative": rows}) for name, rows in PARTS.items()}


def _written(run: Run, name: str, text: str) -> str:
    """A file of the attempt, as manifests name it."""
    path = run.attempt / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return run.relative(path)
