"""The evaluation as one HTML page that reads offline: verdict, figures with their intervals, pictures; no raw texts."""

import base64
from collections.abc import Mapping
from pathlib import Path

from tasks.contracts import DatasetVersion, Download, Evaluation
from tasks.evaluation import gate
from tasks.kinds.base import kind_of
from tasks.metrics.plots import DOTS_PER_INCH
from tasks.metrics.score_table import score_table
from tasks.workspace.files import write_atomically
from tasks.workspace.run import Run


def write(run: Run, evaluation: Evaluation, *, cut_rows: int, replies: Mapping[str, Mapping[str, str]]) -> None:
    """Write the page where the evaluation says that it is.

    Args:
        run: whose recipe, data set, base model and pictures the page shows.
        evaluation: what was found.
        cut_rows: test rows whose text was cut to fit max_tokens.
        replies: place of a test row to what each model wrote to it; the row's own text is not shown.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    version, base = run.read(DatasetVersion), run.read(Download).base_model
    pictures = {title: _picture(run.path(path)) for title, path in evaluation.figures.items()}
    page = environment.get_template("report.html.j2").render(
        run=run.id,
        recipe=run.recipe,
        evaluation=evaluation,
        version=version,
        base=base,
        scores=score_table(evaluation),
        reasons=[_judged(line) for line in evaluation.verdict.reasons],
        pictures=pictures,
        cut_rows=cut_rows,
        replies=replies,
        test=version.parts["test"],
        wording=kind_of(run.recipe).wording(run.recipe),
    )
    write_atomically(run.path(evaluation.report), page)


def _judged(reason: str) -> tuple[str, str, str, str]:
    """What became of a check, the class and the mark that show it, and the reason without its beginning."""
    if reason.startswith(gate.REFUSED):
        return "broken", "bad", "✗", reason.removeprefix(gate.REFUSED)
    if reason.startswith(gate.WARNING):
        return "warning", "warn", "!", reason.removeprefix(gate.WARNING)
    return "held", "good", "✓", reason


def _picture(path: Path) -> dict[str, str | int]:
    """A PNG's bytes for a data URI, and its width in CSS pixels, as large as it was drawn for."""
    content = path.read_bytes()
    pixels = int.from_bytes(content[16:20], "big")  # PNG's first chunk begins with the width
    return {"data": base64.b64encode(content).decode(), "width": round(pixels * 96 / DOTS_PER_INCH)}
