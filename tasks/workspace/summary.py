"""What a run came to, in a table for the terminal, read from its manifests: of a refused or failed run, as far as it came."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tasks.contracts import (
    STEPS,
    Adapter,
    DatasetParts,
    DatasetVersion,
    Evaluation,
    Manifest,
    Promotion,
    Publication,
    RegisteredVersion,
    ValidRows,
)
from tasks.errors import ContractError, explain
from tasks.metrics.score_table import score_table
from tasks.workspace import outcome
from tasks.workspace.progress import clock
from tasks.workspace.run import Run

M = TypeVar("M", bound=Manifest)
Line = tuple[str, str]

LOG_WIDTH = 160
"""Characters a line where there is no terminal."""


def terminal() -> Console:
    """The terminal; where there is none, lines wide enough for paths."""
    found = Console()
    return found if found.is_terminal else Console(width=LOG_WIDTH)


def summary(run: Run) -> RenderableType:
    """The whole of it: facts, and the models side by side where they have been scored."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    parts: list[Callable[[Run], Iterator[Line]]] = [_data, _training, _verdict, _model, _places, _times]
    for part in parts:
        for name, value in part(run):
            facts.add_row(name, Text(value))
    evaluation = _read(run, Evaluation)
    return Group("", facts, "", scores(run, evaluation)) if evaluation else Group("", facts)


def scores(run: Run, evaluation: Evaluation) -> Table:
    """Metrics of the models on the same test rows, each with its interval."""
    found = score_table(evaluation)
    title = f"The same {evaluation.rows:,} test rows, {run.recipe.evaluate.confidence:.0%} intervals"
    table = Table(*found.head, title=title, title_justify="left", box=SIMPLE_HEAD)
    for metric, cells in found.rows:
        table.add_row(Text(metric), *map(str, cells))
    return table


def _data(run: Run) -> Iterator[Line]:
    if valid := _read(run, ValidRows):
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(valid.rejected.items(), key=lambda item: -item[1]))
        yield "Rows read", f"{valid.read:,}"
        yield "Rows rejected", f"{valid.read - valid.valid:,}" + (f": {reasons}" if reasons else "")
    if split := _read(run, DatasetParts):
        yield "Rows left out", ", ".join(f"{reason} {count:,}" for reason, count in split.dropped.items()) or "none"
    if version := _read(run, DatasetVersion):
        state = "new" if version.created else "there already"
        pinned = {None: "", True: ", bit by bit what data.dvc pins", False: ", not what data.dvc pins"}[version.matches_pin]
        yield "Data set", f"{version.tag} ({state}{pinned}), hash {version.data_hash}"
        yield "Parts", ", ".join(f"{name} {part.rows:,}" for name, part in version.parts.items()) + f" rows in {version.repository}"


def _training(run: Run) -> Iterator[Line]:
    if adapter := _read(run, Adapter):
        share = adapter.trainable_parameters / adapter.all_parameters
        yield (
            "Trained",
            f"{adapter.rows:,} rows, {adapter.steps} steps in {clock(adapter.seconds)}, loss {adapter.final_loss:.3f} at the end",
        )
        if adapter.left_out_rows:
            yield "Rows not trained on", f"{adapter.left_out_rows:,}, their answers too long"
        yield "Parameters", f"{adapter.trainable_parameters:,} of {adapter.all_parameters:,} ({share:.1%})"


def _verdict(run: Run) -> Iterator[Line]:
    if evaluation := _read(run, Evaluation):
        parity = evaluation.parity
        yield "Parity", f"the same on {parity.same_labels} of {parity.rows} rows, largest difference {parity.largest_difference:.1e}"
        if gap := evaluation.quantized:
            yield (
                "Gap to the quantised base",
                f"the same on {gap.same_labels} of {gap.rows} rows, largest difference {gap.largest_difference:.1e}",
            )
        yield "Gate", ("passed" if evaluation.verdict.passed else "refused") + "\n" + "\n".join(evaluation.verdict.reasons)


def _model(run: Run) -> Iterator[Line]:
    promotion = _read(run, Promotion)
    if version := _read(run, RegisteredVersion):
        alias = " (champion)" if promotion and promotion.promoted else ""
        yield "Model in MLflow", f"{version.name} version {version.version}{alias}\n{version.url}"
    if promotion:
        yield "Promotion", outcome.sentence(run, promotion) or ""
    elif version and outcome.waits_for_answer(run):
        yield "Promotion", outcome.waiting(run, version)


def _places(run: Run) -> Iterator[Line]:
    if valid := _read(run, ValidRows):
        yield "Data report", run.address(valid.report)
    if evaluation := _read(run, Evaluation):
        yield "Model report", run.address(evaluation.report)
    if publication := _read(run, Publication):
        yield "Model card", publication.model_card
        yield "Pushed", f"{publication.model}\n{publication.adapter}"
    elif (promotion := _read(run, Promotion)) and (nothing := outcome.no_publication(run, promotion)) and promotion.promoted:
        yield "Pushed", explain(nothing.found, fix=nothing.remedy)
    if (adapter := _read(run, Adapter)) and adapter.rows_file:
        yield "Training rows", run.address(adapter.rows_file)
    yield "Run", run.uri


def _times(run: Run) -> Iterator[Line]:
    """Wall time of each finished step; of steps that took a second, only that they are done."""
    spent: dict[str, float] = {}
    for step in STEPS:
        if envelope := run.envelope(step):
            started, finished = (datetime.fromisoformat(moment) for moment in (envelope.started, envelope.finished))
            spent[step] = (finished - started).total_seconds()
    if spent:
        yield "Time", ", ".join(f"{step} {clock(seconds)}" for step, seconds in spent.items())


def _read(run: Run, contract: type[M]) -> M | None:
    """What a step handed on, if it did and if that still counts."""
    try:
        return run.read(contract)
    except ContractError:
        return None
