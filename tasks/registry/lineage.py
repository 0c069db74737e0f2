"""What a model version came from: the tags that say on which data, with which code, recipe, base and libraries it was made."""

import hashlib
import json
import subprocess
from importlib.metadata import version as installed
from pathlib import Path

from tasks import __version__, settings
from tasks.contracts import Adapter, DatasetVersion, Download, Evaluation, MergedModel, ValidRows
from tasks.registry.tracking import RUN_TAG
from tasks.workspace.run import Run

CONTENT_TAG = "loraflow.content"
"""Hash of the merged model's files and the recipe: equal content of one run is the same version."""

RECIPE_TAG = "loraflow.recipe"

CHALLENGER = "challenger"
"""Alias of the version that was registered last by a run that may promote it, and is not the champion."""

GATE_TAG, REASONS_TAG = "gate", "gate_reasons"
PASSED, REFUSED = "passed", "refused"

SCORES_TAG = "scores"
"""JSON, metric to value on the test part of the version's data set."""

DATA_HASH_TAG = "data_hash"

CODE = ("tasks", "dags", "pyproject.toml", "requirements.lock")
"""Folders and files of a checkout that decide what a run does."""

RECIPES = "tasks/recipes"

CODE_SUFFIXES = (".py", ".j2")
"""How names of files end that are code: modules and templates."""

UNTRACKED = ("??", "!!")
"""What `git status` says of files that it does not track: neither of them, nor of those that it ignores."""

LIBRARIES = ("torch", "transformers", "peft", "mlflow", "dvc")


def lineage(run: Run) -> dict[str, str]:
    """Tag to value of everything that the run's model came from, and of what its test said."""
    recipe, base, data = run.recipe, run.read(Download).base_model, run.read(DatasetVersion)
    commit, dirty = code_commit(settings.CHECKOUT)
    return {
        RUN_TAG: run.id,
        RECIPE_TAG: recipe.name,
        CONTENT_TAG: content_hash(run),
        "recipe_hash": recipe.sha256(),
        "profile": recipe.profile,
        "seed": str(recipe.train.seed),
        "data": data.tag,
        DATA_HASH_TAG: data.data_hash,
        "data_repository_commit": data.git_commit,
        "validation": _validation(run, data.tag),
        **_training_rows(run),
        "base_model": base.name,
        "base_model_revision": base.revision,
        "code": commit,
        "code_changed": "yes" if dirty else "no",
        "mlflow_run": run.read(Adapter).tracked.run_id,
        "loraflow": __version__,
        **{library: installed(library) for library in LIBRARIES},
        **evaluation_tags(run.read(Evaluation)),
    }


def _training_rows(run: Run) -> dict[str, str]:
    """How many rows were trained on, and the hash of their list: two versions that learned from the same rows have the same."""
    adapter = run.read(Adapter)
    tags = {"training_rows": str(adapter.rows)}
    if adapter.rows_file is None:
        return tags
    with run.path(adapter.rows_file).open("rb") as stream:
        return tags | {"training_rows_sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def evaluation_tags(evaluation: Evaluation) -> dict[str, str]:
    """Tags of the gate's verdict and of the scores that it saw."""
    return {
        GATE_TAG: PASSED if evaluation.verdict.passed else REFUSED,
        REASONS_TAG: "\n".join(evaluation.verdict.reasons),
        SCORES_TAG: json.dumps({name: score.value for name, score in evaluation.tuned.items()}),
    }


def content_hash(run: Run) -> str:
    """sha256 over the names and bytes of the merged model's files and the recipe's hash; reads the weights once, in pieces."""
    folder, digest = run.path(run.read(MergedModel).path), hashlib.sha256(run.recipe.sha256().encode())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as stream:
            digest.update(f"{path.relative_to(folder).as_posix()} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def code_commit(checkout: Path) -> tuple[str, bool]:
    """Commit of the code, and whether the code differs from it: of a checkout, or as an image says that was built from one.

    The code is what a run executes: `CODE`, without the recipes, whose hash is recorded apart. Changed, staged and untracked files count
    (ignored ones too), the last only where they are code.
    """
    try:
        top = _git(checkout, "rev-parse", "--show-toplevel")
        if Path(top.rstrip("\n")).resolve() != checkout.resolve():  # an environment inside somebody else's repository
            return _built_from(checkout)
        commit = _git(checkout, "rev-parse", "HEAD").strip()
        options = ("--porcelain", "-z", "--no-renames", "--untracked-files=all", "--ignored=traditional")
        found = _git(checkout, "status", *options, "--", *CODE, f":(exclude){RECIPES}").split("\0")
    except (OSError, subprocess.SubprocessError):
        return _built_from(checkout)
    return commit, any(line[:2] not in UNTRACKED or line.endswith(CODE_SUFFIXES) for line in found if line)


def _built_from(folder: Path) -> tuple[str, bool]:
    """What the Dockerfiles write beside the code: the commit that it was built from, ending in -dirty where files differed."""
    try:
        told = (folder / "COMMIT").read_text(encoding="utf-8").strip()
    except OSError:
        return "no checkout", False
    return told.removesuffix("-dirty"), told.endswith("-dirty")


def _git(checkout: Path, *arguments: str) -> str:
    """What git prints; it writes nothing, and reads a checkout of another user too, whose code runs here already."""
    command = ["git", "--no-optional-locks", "-c", f"safe.directory={checkout.resolve()}", "-C", str(checkout), *arguments]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=True, timeout=60).stdout


def _validation(run: Run, data_tag: str) -> str:
    """What validation said of the rows, as JSON; where this run took a finished data version, whose validation it is."""
    if not run.has(ValidRows):
        return f"by the run that made {data_tag}"
    rows = run.read(ValidRows)
    return json.dumps({"read": rows.read, "valid": rows.valid, "rejected": rows.rejected}, ensure_ascii=False)
