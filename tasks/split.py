"""Cut validated rows into train, validation and test parts.

Reads   ValidRows     runs/<id>/validate.json
Uses    data.*, labels.*, split.*   of the recipe
Writes  DatasetParts  runs/<id>/split.json
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tasks import contracts
from tasks.data import near_duplicates, parquet
from tasks.data.comparison_key import key, letters
from tasks.data.dialogues import opening_turn, split_reply
from tasks.data.label_rule import Misfit, labels_of
from tasks.data.partition import LabelledRow, Origin, count, downsampled, split_rows, upsampled
from tasks.errors import DataError, Skip
from tasks.schema.data import Split, Table
from tasks.schema.recipe import LABEL_SEPARATOR, Recipe
from tasks.workspace.progress import Progress
from tasks.workspace.run import Run


def split(run: Run) -> contracts.DatasetParts:
    """Give every row its labels, resolve duplicates and contradictions, and part train, validation and test.

    Raises:
        DataError: a label field fits no class, there is one class only, or a class or the whole is too small for the parts.
        Skip: the run uses a data set version that is there.
    """
    recipe, keys = run.recipe, run.recipe.split
    if recipe.run.data != "new":
        raise Skip("split", f"data is {recipe.run.data}, and that version is already split")
    valid = run.read(contracts.ValidRows)
    dropped: Counter[str] = Counter()
    rows = _labelled(run, valid.rows, "data", dropped)
    published = _labelled(run, valid.test_rows, "test", dropped) if valid.test_rows else None
    if published and keys.published == "pooled":
        rows, published = [*rows, *published], None
    rows = resolve_equal_texts(rows, keys, dropped)
    if published is not None:
        rows = _without(rows, {letters(row.text) for row in published}, dropped)
    groups = None
    if keys.groups == "near_copies":
        rows, groups = grouped(recipe, rows, published or [], dropped)
    parts = split_rows(rows, keys, recipe.labels.names, published=published, groups=groups)
    dropped["not drawn"] = len(rows) + len(published or ()) - sum(map(len, parts.values()))
    before = len(parts["train"])
    if keys.balance == "downsample":
        parts["train"] = downsampled(parts["train"])
        dropped["balance"] = before - len(parts["train"])
    if keys.balance == "upsample":
        parts["train"] = upsampled(parts["train"], keys.seed)
    return contracts.DatasetParts(
        folder=run.relative(run.attempt / "parts"),
        parts={name: _write(run, name, part) for name, part in parts.items() if part},
        dropped={reason: rows for reason, rows in sorted(dropped.items()) if rows},
        copies=max(len(parts["train"]) - before, 0),
    )


def _labelled(run: Run, path: str, file: contracts.FileName, dropped: Counter[str]) -> list[LabelledRow]:
    """The valid rows of a file with their labels and answers, in its order; what gives no row is counted in `dropped`."""
    lines, columns = parquet.read(run.path(path))
    table = run.recipe.data.tables()[file == "test"]
    rows: list[LabelledRow] = []
    faults: list[tuple[int, Misfit]] = []
    with Progress(run, "split", "labelling", len(lines), "rows") as progress:
        for line, *fields in zip(lines, *columns.values(), strict=True):
            row = _row(line, dict(zip(columns, fields, strict=True)), run.recipe, table)
            if isinstance(row, Misfit):
                faults.append((line, row))
            elif isinstance(row, str):
                dropped[row] += 1
            else:
                rows.append(replace(row, file=file))
            progress.advance()
    if faults:
        line, fault = faults[0]
        others = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        where = f"split: line {line}" + ("" if file == "data" else " of data.test")
        raise DataError(where, f"{fault.column} is {fault.value!r:.40}{others}", fault.expected, fault.remedy)
    return rows


def _row(line: int, cells: dict[str, str], recipe: Recipe, table: Table) -> LabelledRow | Misfit | str:
    """The row, the field that is at fault, or why there is no row."""
    if table.turns:
        parted = split_reply(table.turns, cells["text"], cells.get("rejected"))
        if isinstance(parted, str):
            return parted
        cells |= dict(zip(("text", "answer", "rejected"), parted, strict=True))
    labels = labels_of(cells, recipe.labels, table.label or "") if recipe.labels.names else ()
    if isinstance(labels, Misfit):
        return labels
    if recipe.labels.names and not labels:
        return "no label"
    if len(labels) > 1 and not recipe.multi_label:
        return "several labels"
    return LabelledRow(line, cells["text"], labels, tuple(cells.get(name, "") for name in recipe.data.answers()))


def resolve_equal_texts(rows: Sequence[LabelledRow], keys: Split, dropped: Counter[str]) -> list[LabelledRow]:
    """The rows that stay where texts are equal, in their order; the others are counted in `dropped`.

    A tie between the most frequent labels of a text is a contradiction that no majority resolves: its rows go. Rows with equal
    texts and labels are duplicates where their answers are equal too.
    """
    groups: dict[str, list[LabelledRow]] = defaultdict(list)
    for row in rows:
        groups[row.key].append(row)
    stays: set[Origin] = set()
    for group in groups.values():
        kept = _without_contradiction(group, keys.contradictions)
        dropped["contradiction"] += len(group) - len(kept)
        first = kept if keys.duplicates == "keep" else list({(row.labels, *map(key, row.answers)): row for row in reversed(kept)}.values())
        dropped["duplicate"] += len(kept) - len(first)
        stays.update(row.origin for row in first)
    return [row for row in rows if row.origin in stays]


def _without_contradiction(group: list[LabelledRow], what: str) -> list[LabelledRow]:
    counts = Counter(row.labels for row in group).most_common()
    if what == "keep" or len(counts) == 1:
        return group
    if what == "drop" or counts[0][1] == counts[1][1]:
        return []
    return [row for row in group if row.labels == counts[0][0]]


def _without(rows: Sequence[LabelledRow], published: set[str], dropped: Counter[str]) -> list[LabelledRow]:
    kept = [row for row in rows if letters(row.text) not in published]
    dropped["leak"] += len(rows) - len(kept)
    return kept


def grouped(
    recipe: Recipe, rows: Sequence[LabelledRow], published: Sequence[LabelledRow], dropped: Counter[str]
) -> tuple[list[LabelledRow], Mapping[Origin, int]]:
    """The rows that are near copies of no published one, and the group of each by its origin.

    Near copies in the text, in the answer (of a pair the better one) or in any field make a group; in dialogues the opening turn too.
    """
    whole = [*rows, *published]
    columns = [[row.text for row in whole]]
    columns += [[row.answers[index] for row in whole] for index, name in enumerate(recipe.data.answers()) if name != "rejected"]
    columns += [[opening_turn(table.turns, text) for text in columns[0]] for table in recipe.data.tables() if table.turns]
    ids = near_duplicates.groups(columns)
    taken = set(ids[len(rows) :])
    stay = [(row, group) for row, group in zip(rows, ids, strict=False) if group not in taken]
    dropped["leak"] += len(rows) - len(stay)
    return [row for row, _ in stay], {row.origin: group for row, group in stay}


def _write(run: Run, name: contracts.PartName, rows: Sequence[LabelledRow]) -> contracts.Part:
    recipe, path = run.recipe, run.attempt / "parts" / f"{name}.parquet"
    columns: dict[str, list[str]] = {"file": [row.file for row in rows]} if recipe.data.test else {}
    columns["text"] = [row.text for row in rows]
    if recipe.labels.names:
        columns["label"] = [LABEL_SEPARATOR.join(row.labels) for row in rows]
    columns |= {column: [row.answers[index] for row in rows] for index, column in enumerate(recipe.data.answers())}
    parquet.write(path, ("row", [row.line for row in rows]), columns)
    counts = count(rows)
    return contracts.Part(run.relative(path), len(rows), {label: counts[label] for label in recipe.labels.names})
