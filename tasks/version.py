"""Give the data set its version in git and DVC, or fetch the version that the run asks for.

Reads   DatasetParts, Download   where the run makes new data
Uses    run.data, name, labels.names   of the recipe
Writes  DatasetVersion   runs/<id>/version.json

New data are compared with the recipe's latest version, and with no older one: data that went back to a former state are a
new version, or `latest` would go on naming what is no longer so.
"""

import random
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args

from tasks.contracts import DatasetParts, DatasetVersion, Download, Part, PartName
from tasks.data.fingerprint import folder_hash, listing, matches_pin
from tasks.data.repository import Clone, cloned, tag_of
from tasks.errors import DataError, ServiceError
from tasks.schema.recipe import LABEL_SEPARATOR
from tasks.workspace.files import link_or_copy
from tasks.workspace.progress import Progress
from tasks.workspace.run import Run

ATTEMPTS = 10
"""How often a run that lost the race against another tries again; each round somebody wins."""


def version(run: Run) -> DatasetVersion:
    """Give the data set its version in git and DVC, or fetch the version that the run asks for."""
    make = _new if run.recipe.run.data == "new" else _asked_for
    with Progress(run, "version", "data set", total=3, unit="stages") as progress:
        made = make(run, progress)
    told = {None: "", True: ", bit by bit the data set that data.dvc pins", False: ", not the data set that data.dvc pins"}
    state = "made" if made.created else "there already"
    print(f"version: {made.tag}, {state}{told[made.matches_pin]}", file=sys.stderr, flush=True)
    return made


def _new(run: Run, progress: Progress) -> DatasetVersion:
    """The parts of this run as a version: a new one where they are not what the latest one holds."""
    recipe, folder, split = run.recipe.name, run.attempt / "data", run.read(DatasetParts)
    for name, part in split.parts.items():
        link_or_copy(run.path(part.path), folder / f"{name}.parquet")
    parts = {name: replace(part, path=run.relative(folder / f"{name}.parquet")) for name, part in split.parts.items()}
    own_hash = folder_hash(listing(folder))
    for attempt in range(ATTEMPTS):
        time.sleep(random.uniform(0, attempt))  # noqa: S311
        with cloned(run.attempt) as clone:
            latest = max(clone.versions(recipe), default=0)
            progress.reach(1, f"compared with v{latest}")
            if latest and clone.hash_of(recipe, tag_of(recipe, latest)) == own_hash:
                progress.reach(3, f"unchanged since v{latest}")
                return _reuse_version(run, clone, latest, own_hash, parts)
            tag = tag_of(recipe, latest + 1)
            clone.commit(recipe, folder, tag, _message(run, tag, own_hash, parts))
            progress.reach(2, f"pushing v{latest + 1}")
            if clone.publish(recipe, tag):
                progress.reach(3, f"v{latest + 1}")
                return _reuse_version(run, clone, latest + 1, own_hash, parts)
    raise ServiceError(clone.address, f"other runs pushed first, {ATTEMPTS} times", f"{tag} to be pushed", "try again when they are done")


def _message(run: Run, tag: str, own_hash: str, parts: dict[PartName, Part]) -> str:
    source = run.read(Download).source
    rows = ", ".join(f"{name} {part.rows:,}" for name, part in parts.items())
    origin = f"{source.origin} sha256:{source.sha256}" if source else "unknown"
    return f"Version {tag}\n\nRun: {run.id}\nRows: {rows}\nSource: {origin}\nData: {own_hash}\n"


def _asked_for(run: Run, progress: Progress) -> DatasetVersion:
    """The version that the run names; the repository is only read."""
    recipe, asked, folder = run.recipe.name, run.recipe.run.data, run.attempt / "data"
    with cloned(run.attempt) as clone:
        there = clone.versions(recipe)
        number = max(there, default=0) if asked == "latest" else int(asked[1:])
        if number not in there:
            names = ", ".join(f"v{one}" for one in there)
            expected, remedy = (f"one of {names}", "name one of them") if there else ("", "run it with data: new first")
            raise DataError(f"{clone.address}: data/{recipe}", f"no version {asked}", expected, remedy)
        progress.reach(1, f"fetching v{number}")
        tag = tag_of(recipe, number)
        clone.fetch(recipe, tag, folder)
        progress.reach(3, f"v{number}")
        parts: dict[PartName, Part] = {
            name: _part(run, tag, path) for name in get_args(PartName) if (path := folder / f"{name}.parquet").exists()
        }
        for name in ("train", "test"):
            if name not in parts:
                raise DataError(tag, f"{name}.parquet is missing", "a train and a test part", "name another version")
        return _reuse_version(run, clone, number, folder_hash(listing(folder)), parts)


def _part(run: Run, tag: str, path: Path) -> Part:
    from pyarrow import ArrowException
    from pyarrow import parquet as pq

    where, remedy = f"{tag}: {path.name}", "name another version, or make a new one"
    try:
        columns = pq.read_table(path)
    except ArrowException as error:
        raise DataError(where, f"not readable ({error})", "a parquet file", remedy) from None
    data, names = run.recipe.data, run.recipe.labels.names
    expected = ("row", "text", *(["label"] if names else []), *(["answer"] if data.answer else []), *data.fields)
    if missing := [name for name in expected if name not in columns.column_names]:
        raise DataError(where, f"column {missing[0]} is missing", f"{', '.join(expected)}", remedy)
    given = columns["label"].to_pylist() if names else []
    counts = Counter(label for cell in given for label in (cell.split(LABEL_SEPARATOR) if run.recipe.multi_label else [cell]))
    if strange := [label for label in counts if label not in names]:
        raise DataError(where, f"label {strange[0]!r:.60}", f"one of {', '.join(names)}", remedy)
    return Part(run.relative(path), columns.num_rows, {name: counts[name] for name in names})


def _reuse_version(run: Run, clone: Clone, number: int, own_hash: str, parts: dict[PartName, Part]) -> DatasetVersion:
    tag = tag_of(run.recipe.name, number)
    return DatasetVersion(
        tag=tag,
        number=number,
        created=clone.made_by(tag) == run.id,  # Also where the attempt that made it was killed before it could say so.
        data_hash=own_hash,
        git_commit=clone.commit_of(tag),
        repository=clone.address,
        parts=parts,
        matches_pin=matches_pin(run.recipe.name, run.attempt / "data"),
    )
