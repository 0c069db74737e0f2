"""The command `loraflow`, the same as `python -m tasks`: every step by its name, and the whole run without Airflow."""

import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tasks.contracts import (
    CONTRACTS,
    FORMER_STEPS,
    STEPS,
    SWEEP_STEPS,
    Approval,
    Download,
    Evaluation,
    Plan,
    Preflight,
    Promotion,
    RegisteredVersion,
    TrialScores,
)  # fmt: skip
from tasks.errors import ContractError, InterruptedRunError, LoraflowError, RecipeError, Skip
from tasks.model.tokenizer import without_torch
from tasks.process import sigterm
from tasks.process.library_logs import quiet_libraries
from tasks.schema import load as recipes
from tasks.schema.recipe import Recipe
from tasks.secrets.redaction import redact_output
from tasks.secrets.variables import strip_secrets
from tasks.settings import TELEMETRY_OFF, settings
from tasks.workspace import outcome
from tasks.workspace.location import run_folder
from tasks.workspace.run import Run

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

RunOption = Annotated[str, typer.Option("--run", help="Folder of the run, or its URL in an object store.")]
Generation = Annotated[int, typer.Option(help="How often the step was asked for anew; what an earlier one left does not count.")]
Part = Annotated[str, typer.Option(help="Which part of its work a step is to do that does it in parts: of sweep_trial, the trial's name.")]
Profile = Annotated[str, typer.Option(help="Profile of the recipe: local or full. Default: LORAFLOW_PROFILE.")]
Set = Annotated[list[str], typer.Option("--set", help="A recipe key to replace, section.key=value; may be given again.")]

Param = Annotated[list[str], typer.Option("--param", help="A field of the trigger form, name=value; may be given again.")]

TRIAL = {"run.promotion": "never", "run.push": False}
"""What `run` lays over the recipe unless it is to promote; --set may say otherwise, and is refused then."""


def main() -> None:
    """Run a command; a fault ends it with one readable block and the fault's exit code."""
    strip_secrets()
    redact_output()
    os.environ.update(TELEMETRY_OFF)
    # Threads that spin while they wait take the cores from whatever else runs here: a training beside another took 5 times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    quiet_libraries()
    try:
        app()
    except Skip as skip:
        print(f"\nskipped: {skip}", file=sys.stderr)
        sys.exit(skip.exit_code)
    except LoraflowError as error:
        print(f"\n{type(error).__name__}\n{error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except sigterm.Ended as end:
        print(f"\n{end}", file=sys.stderr)
        sys.exit(InterruptedRunError.exit_code)
    except Exception:  # a bug of ours or of a library: told whole
        print(traceback.format_exc(), file=sys.stderr)
        sys.exit(1)


def _step_command(step: str) -> None:
    @app.command(step, help=f"Do the step {step} of a run.", rich_help_panel="Steps")
    def command(run: RunOption, generation: Generation = 0, part: Part = "") -> None:
        if step in (Preflight.step, Download.step):
            without_torch()
        _perform(step, Run(run), generation, part)


def _perform(step: str, run: Run, generation: int = 0, part: str = "") -> None:
    from tasks.workspace.perform import perform

    sigterm.exit_if_asked()  # one that came at the end of the step before
    sigterm.listen(step)
    perform(step, run, generation, part)


def _former_step_command(step: str, former: str) -> None:
    @app.command(former, hidden=True)
    def command(run: RunOption, generation: Generation = 0, part: Part = "") -> None:
        print(f"the step {former} is now {step}, and the former name will go. Fix: use loraflow {step}", file=sys.stderr)
        _perform(step, Run(run), generation, part)


for _step in CONTRACTS:
    _step_command(_step)
for _step, _former in FORMER_STEPS.items():
    _former_step_command(_step, _former)


@app.command("start")
def start(recipe: str, run_id: Annotated[str, typer.Option(help="Name of the run.")] = "", profile: Profile = "", set_: Set = []) -> None:  # noqa: B006
    """Check a recipe and freeze it into a new run's folder; prints the folder, or its URL."""
    print(_start(recipe, run_id, profile, set_).uri)


@app.command("run")
def run_all(
    recipe: str,
    run_id: Annotated[str, typer.Option(help="Name of the run.")] = "",
    profile: Profile = "",
    set_: Set = [],  # noqa: B006
    promote: Annotated[bool, typer.Option("--promote", help="Promote and publish as the recipe's run.promotion and run.push say.")] = False,
) -> None:
    """All steps of a recipe here, one after the other, without Airflow; without --promote nothing is promoted or published."""
    run = _start_of_all(recipe, run_id, profile, set_, promote)
    try:
        _perform_all(run)
    except LoraflowError:
        with suppress(LoraflowError):  # where the runs' place is the fault, there is nothing to show
            _show(run)
        raise
    _show(run)


def _start_of_all(name: str, run_id: str, profile: str, assignments: list[str], promote: bool) -> Run:
    """Freeze the recipe of a run of all steps, and say whether it promotes.

    Raises:
        RecipeError: what is set asks for a promotion without --promote, or against it.
    """
    recipe = _resolve(name, profile, assignments, under={} if promote else TRIAL)
    asked = recipe.run
    if promote and asked.promotion == "never":
        remedy = "add --set run.promotion=auto (or manual), or leave out --promote"
        raise RecipeError("--promote", "the recipe's run.promotion is never", "auto or manual", remedy)
    if not promote and (asked.promotion != "never" or asked.push):
        found = f"run.promotion is {asked.promotion} and run.push {str(asked.push).lower()} without --promote"
        raise RecipeError("--set", found, "never and false", "add --promote, or leave these keys out")
    run = _freeze(recipe, run_id)
    says = {
        "never": "promotes and publishes nothing; with --promote it does, as the recipe's run.promotion and run.push say",
        "auto": "the gate decides whether the new version becomes the champion",
        "manual": "run.promotion is manual, and nobody can answer here: the run ends before promote, with the commands to answer",
    }
    print(f"run: {run.id}: {says[asked.promotion]}", file=sys.stderr, flush=True)
    return run


def _perform_all(run: Run) -> None:
    for step in STEPS:
        if step == Promotion.step and outcome.waits_for_answer(run):
            print(f"run: {outcome.waiting(run, run.read(RegisteredVersion))}", file=sys.stderr, flush=True)
            return
        try:
            _perform(step, run)
        except Skip as skip:
            print(f"skipped: {skip}", file=sys.stderr, flush=True)


def _show(run: Run) -> None:
    """The table of what the run came to."""
    from tasks.workspace.summary import summary, terminal

    terminal().print(summary(run))
    if settings().mlflow_uri is settings().mlflow_ui is None:
        print("To open MLflow's pages: loraflow up")


@app.command("sweep")
def sweep(recipe: str, run_id: Annotated[str, typer.Option(help="Name of the run.")] = "", profile: Profile = "", set_: Set = []) -> None:  # noqa: B006
    """The grid of a recipe's `sweep` here, one training after the other, without Airflow."""
    run = _start(recipe, run_id, profile, set_)
    for step in SWEEP_STEPS:
        parts = run.read(Plan).parts if step == TrialScores.step else [""]
        for part in parts:
            try:
                _perform(step, run, part=part)
            except Skip as skip:
                print(f"skipped: {skip}", file=sys.stderr)
    print(run.uri)


@app.command("approve")
def approve(
    run: RunOption,
    by: Annotated[str, typer.Option(help="Who answers; goes into the version's tags.")],
    reason: Annotated[str, typer.Option(help="Why; goes into the version's tags.")],
    decline: Annotated[bool, typer.Option("--decline", help="Say no.")] = False,
) -> None:
    """Answer for a run whose promotion is manual: its version may become champion, or may not; `promote` acts on it."""
    if not by.strip():
        raise ContractError("--by", repr(by), "a reviewer's name", "give yours")
    reviewed = Run(run)
    for contract in (Evaluation, RegisteredVersion):  # what is approved is these; another evaluation asks anew
        reviewed.read(contract)
    reviewed.write(Approval(approved=not decline, by=by, reason=reason))


@app.command("recipes")
def list_recipes() -> None:
    """List the recipes."""
    table = Table("recipe", "kind", "language", "what")
    for path in recipes.recipe_files(settings().recipes):
        document = recipes.load(path)
        table.add_row(*(escape(str(document.get(key, ""))) for key in ("name", "kind", "language", "title")))
    Console().print(table)


@app.command("check")
def check(recipe: str) -> None:
    """Check a recipe in both profiles; RECIPE is a name or a path."""
    path = _path(recipe)
    document = recipes.load(path)
    for profile in ("local", "full"):
        resolved = recipes.resolve(document, profile, where=path.name)
        print(f"{path.name}: good in profile {profile}, recipe hash {resolved.sha256()[:12]}")


@app.command("doctor")
def doctor(
    recipe: Annotated[str, typer.Argument(help="A recipe, whose needs are looked at too: base model, data, where it is published.")] = "",
    profile: Profile = "",
    set_: Set = [],  # noqa: B006
) -> None:
    """Check everything that a run needs, such as services, permissions and disk space; report each problem with its fix."""
    from tasks.doctor.checks import by_hand
    from tasks.doctor.findings import examine, stop_at_faults, table
    from tasks.doctor.scope import Scope

    without_torch()
    ours = settings()
    scope = Scope(ours, _resolve(recipe, profile, set_) if recipe else None, str(ours.runs_folder))
    findings = examine(by_hand(scope))
    Console().print(table(findings))
    stop_at_faults("doctor", findings)


@app.command("prefetch")
def prefetch(recipe: str, profile: Profile = "", set_: Set = []) -> None:  # noqa: B006
    """Bring a recipe's base model and data file into the caches in the home folder; its runs then need no network for them."""
    from tasks import download

    without_torch()
    download.prefetch(_resolve(recipe, profile, set_))


@app.command("up", rich_help_panel="On this machine")
def up() -> None:
    """Start Airflow and MLflow on loopback, and let them run."""
    from tasks.local_servers import commands

    commands.up()


@app.command("down", rich_help_panel="On this machine")
def down() -> None:
    """End Airflow and MLflow and whatever they run; a run that is cut short goes on after the next `up`."""
    from tasks.local_servers import commands

    commands.down()


@app.command("retrain", rich_help_panel="On this machine")
def retrain(recipe: str, param: Param = []) -> None:  # noqa: B006
    """Retrain a recipe through Airflow and follow it; servers that are not up are started, and ended again."""
    from tasks.local_servers import commands

    if not commands.retrain(recipe, _by_name(param, "--param")):
        raise typer.Exit(1)


@app.command("demo", rich_help_panel="On this machine")
def demo(param: Param = []) -> None:  # noqa: B006
    """Retrain the recipe `tweets`: a real model on real tweets, both out of PyPI packages."""
    retrain("tweets", param)


def _resolve(name: str, profile: str, assignments: list[str], under: Mapping[str, Any] = MappingProxyType({})) -> Recipe:
    path = _path(name)
    overrides = {**under, **{key: recipes.read_yaml(text, f"--set {key}") for key, text in _by_name(assignments, "--set").items()}}
    return recipes.resolve(recipes.load(path), profile or settings().profile, overrides, where=path.name)


def _start(name: str, run_id: str, profile: str, assignments: list[str]) -> Run:
    return _freeze(_resolve(name, profile, assignments), run_id)


def _freeze(recipe: Recipe, run_id: str) -> Run:
    run = Run(run_folder(settings().runs_folder, recipe.name, run_id or datetime.now(UTC).strftime("%Y%m%dT%H%M%S")))
    run.freeze(recipe)
    return run


def _path(recipe: str) -> Path:
    return Path(recipe) if recipe.endswith(".yaml") else settings().recipes / f"{recipe}.yaml"


def _by_name(assignments: list[str], option: str) -> dict[str, str]:
    """The texts behind the names of an option that was given several times."""
    texts: dict[str, str] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise RecipeError(option, f"{assignment!r} has no =", "key=value", "write it so")
        if name in texts:
            raise RecipeError(option, f"{name} is given twice, as {texts[name]!r} and {text!r}", "one value", "remove the other")
        if rival := next((known for known in texts if known.startswith(f"{name}.") or name.startswith(f"{known}.")), None):
            raise RecipeError(option, f"{rival} and {name} set the same key", "one value for each key", "keep one of them")
        texts[name] = text
    return texts
