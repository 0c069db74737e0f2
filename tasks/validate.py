"""Set aside the rows that break the recipe's rules, and say which and why.

Reads   Download      runs/<id>/download.json
Uses    data.*, validate.*, labels.*   of the recipe
Writes  ValidRows     runs/<id>/validate.json
"""

from collections import Counter
from pathlib import Path
from typing import Literal

from tasks import contracts
from tasks.data import expectations, parquet, validation_report
from tasks.data import read_file as files
from tasks.data.checked_file import CheckedFile
from tasks.data.label_rule import RULE
from tasks.errors import ContractError, DataError, Skip
from tasks.schema.data import Table
from tasks.workspace.progress import Progress
from tasks.workspace.run import Run


def validate(run: Run) -> contracts.ValidRows:
    """Check every row of the data files; keep the good ones, set the others aside with line number and reason, and report.

    Raises:
        DataError: a file has no usable row, more of its rows are rejected than the recipe allows, or an expectation with severity
            stop, or about the whole table, is broken. The report and the rejects are written before, and stay.
        RecipeError: an expectation is not one that Great Expectations accepts.
        Skip: the run uses a data set version that is there.
    """
    recipe = run.recipe
    if recipe.run.data != "new":
        raise Skip("validate", f"data is {recipe.run.data}, and that version is already validated")
    download = run.read(contracts.Download)
    checked = [_check(run, recipe.data, download.source, download.test_source, "data")]
    if recipe.data.test:
        checked.append(_check(run, recipe.data.test, download.test_source, download.source, "test"))
    rejects = files.write_rejects(run.attempt / "rejects", [(file.name, file.path, file.rejects) for file in checked])
    written = [_write(run, file, name) for file, name in zip(checked, ("rows", "test_rows"), strict=False)]
    manifest = contracts.ValidRows(
        rows=written[0],
        rejects=run.relative(rejects.parent),
        report=run.relative(run.attempt / "report.html"),
        read=sum(file.read for file in checked),
        valid=sum(len(file.valid) for file in checked),
        rejected=dict(Counter(reject.reason for file in checked for reject in file.rejects).most_common()),
        test_rows=written[1] if len(written) > 1 else None,
    )
    judged = (_fault(run, file, recipe.validate_.max_reject_share, rejects, len(checked)) for file in checked)
    fault = next(filter(None, judged), None)
    validation_report.write(run, manifest, checked, fault)
    if fault:
        raise fault
    return manifest


def _check(
    run: Run, table: Table, source: contracts.SourceFile | None, other: contracts.SourceFile | None, file: Literal["data", "test"]
) -> CheckedFile:
    """Read a data file and judge its rows."""
    if source is None:
        raise ContractError("download.json", "no data file", "one where data is new", "run download again")
    path = run.path(source.path)
    where = path.name if other is None or Path(other.path).name != path.name else f"{path.parent.name}/{path.name}"
    rules = expectations.rules([each for each in run.recipe.validate_.expectations if each.file in ("both", file)])
    with Progress(run, "validate", f"reading {where}", source.bytes, "bytes") as progress:
        advance = progress.advance if path.suffix != ".gz" else lambda _: None  # what comes out of it is not counted in its bytes
        parsed = files.parse(path, table, where, advance, run.recipe.labels.columns())
        progress.reach(source.bytes)
    if not parsed.rows and not parsed.rejects:
        raise DataError(where, "a header and no rows", "rows", "look at the source")
    with Progress(run, "validate", "checking expectations", len(rules), "expectations") as progress:
        outcomes = expectations.check(rules, parsed, where, progress.advance)
    return CheckedFile(where, path, table, source, parsed, outcomes)


def _write(run: Run, file: CheckedFile, name: str) -> str:
    """The valid rows, each column under what it is for."""
    roles = file.table.roles() | {RULE + column: column for column in run.recipe.labels.columns()}
    path = run.attempt / f"{name}.parquet"
    parquet.write(path, ("line", [file.parsed.places[position].line for position in file.valid]), file.columns(roles))
    return run.relative(path)


def _fault(run: Run, file: CheckedFile, allowed: float, rejects: Path, files: int) -> DataError | None:
    """What stops the run, the gravest first."""
    rejected, of_file = len(file.rejects), f" of {file.name}" if files > 1 else ""
    most = f"{Counter(reject.reason for reject in file.rejects).most_common(1)[0][0]}, for most" if rejected else ""
    if not file.valid:
        return DataError(
            "validate", f"none of the {file.read} rows of {file.name} is usable ({most})", "rows", f"see {run.address(rejects)}"
        )
    for outcome in file.outcomes:
        expectation = outcome.rule.expectation
        if outcome.kept or (outcome.rule.of_rows and expectation.severity == "reject"):
            continue
        found = (
            f"{len(outcome.failing_rows)} of {outcome.checked} rows"
            if outcome.rule.of_rows
            else f"observed {outcome.observed or 'otherwise'}"
        )
        return DataError(
            "validate",
            f"{expectation.reason} ({expectation.expect}: {found}{of_file})",
            "",
            f"see {run.address(rejects.parent.parent / 'report.html')}",
        )
    if rejected > allowed * file.read:
        return DataError(
            "validate", f"{rejected} of {file.read} rows{of_file} rejected ({100 * rejected / file.read:.1f} %)",
            f"at most {100 * allowed:g} %", f"see {run.address(rejects)} ({most})",
        )  # fmt: skip
    return None
