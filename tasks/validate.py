"""Set aside the rows that break the recipe's rules, and say which and why.

Reads   Download      runs/<id>/download.json
Uses    data.*, validate.*, labels.*   of the recipe
Writes  ValidRows     runs/<id>/validate.json
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tasks import contracts, expectations, parquet, validation_report
from tasks import rows as files
from tasks.errors import ContractError, DataError, Skip
from tasks.progress import Progress
from tasks.workspace import Run


def validate(run: Run) -> contracts.ValidRows:
    """Check every row of the data file; keep the good ones, set the others aside with line number and reason, and report.

    Raises:
        DataError: the file has no usable row, more rows are rejected than the recipe allows, or an expectation with severity
            stop, or about the whole table, is broken. The report and the rejects are written before, and stay.
        RecipeError: an expectation is not one that Great Expectations accepts.
        Skip: the run uses a data set version that is there.
    """
    if run.recipe.run.data != "new":
        raise Skip("validate", f"data is {run.recipe.run.data}", "checked when that version was made")
    source = run.read(contracts.Download).source
    if source is None:
        raise ContractError("download.json", "no data file", "one expected where data is new", "run download again")
    where, path = Path(source.path).name, run.path(source.path)
    rules = expectations.rules(run.recipe.validate_.expectations)
    with Progress(run, "validate", "reading", source.bytes, "bytes") as progress:
        parsed = files.parse(path, run.recipe.data, where, progress.advance)
        progress.reach(source.bytes)
    if not parsed.rows and not parsed.rejects:
        raise DataError(where, "a header and no rows", "rows expected", "look at the source")
    with Progress(run, "validate", "checking expectations", len(rules), "expectations") as progress:
        outcomes = expectations.check(rules, parsed, where, progress.advance)

    reasons = _reasons(outcomes)
    rejects = [*parsed.rejects, *(files.Reject(parsed.places[position], reason) for position, reason in reasons.items())]
    table = files.write_rejects(run.attempt / "rejects", path, rejects)
    valid = [position for position in range(len(parsed.rows)) if position not in reasons]
    text, label = (parsed.columns.index(name) for name in (run.recipe.data.text, run.recipe.data.label))
    texts, labels = ([parsed.rows[position][column] for position in valid] for column in (text, label))
    parquet.write(
        run.attempt / "rows.parquet", ("line", [parsed.places[position].line for position in valid]), {"text": texts, "label": labels}
    )
    manifest = contracts.ValidRows(
        rows=run.relative(run.attempt / "rows.parquet"),
        rejects=run.relative(table.parent),
        report=run.relative(run.attempt / "report.html"),
        read=len(valid) + len(rejects),
        valid=len(valid),
        rejected=dict(Counter(reject.reason for reject in rejects).most_common()),
    )
    fault = _fault(manifest, outcomes, run.recipe.validate_.max_reject_share, table, where)
    validation_report.write(run, manifest, source, outcomes, texts=texts, labels=labels, spanning=parsed.spanning, fault=fault)
    if fault:
        raise fault
    return manifest


def _reasons(outcomes: Sequence[expectations.Outcome]) -> dict[int, str]:
    """Position of each rejected row to the first reason, in the recipe's order."""
    reasons: dict[int, str] = {}
    for outcome in outcomes:
        for position, reason in outcome.breakers.items():
            reasons.setdefault(position, reason)
    return reasons


def _fault(
    manifest: contracts.ValidRows, outcomes: Sequence[expectations.Outcome], allowed: float, rejects: Path, where: str
) -> DataError | None:
    """What stops the run, the gravest first."""
    rejected = manifest.read - manifest.valid
    most = f"{next(iter(manifest.rejected))}, for most" if rejected else ""
    if not manifest.valid:
        return DataError("validate", f"none of the {manifest.read} rows of {where} is usable ({most})", "rows expected", f"see {rejects}")
    for outcome in outcomes:
        expectation = outcome.rule.expectation
        if outcome.kept or (outcome.rule.of_rows and expectation.severity == "reject"):
            continue
        found = (
            f"{len(outcome.breakers)} of {outcome.checked} rows" if outcome.rule.of_rows else f"observed {outcome.observed or 'otherwise'}"
        )
        return DataError(
            "validate",
            f"{expectation.reason} ({expectation.expect}: {found})",
            "a run stops on it",
            f"see {rejects.parent.parent / 'report.html'}",
        )
    if rejected > allowed * manifest.read:
        return DataError(
            "validate", f"{rejected} of {manifest.read} rows rejected ({100 * rejected / manifest.read:.1f} %)",
            f"at most {100 * allowed:g} % allowed", f"see {rejects} ({most})",
        )  # fmt: skip
    return None
