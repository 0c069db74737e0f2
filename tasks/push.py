"""Publish what this run promoted: the adapter, and the merged model with its tokenizer, each with a model card.

Reads   every manifest from `version` to `promote`     runs/<id>/*.json
Uses    run.push                                       of the recipe
Writes  Publication                                    runs/<id>/push.json
"""

import json
import shutil
from pathlib import Path

from tasks.contracts import Adapter, DatasetVersion, Download, MergedModel, Promotion, Publication
from tasks.errors import ContractError
from tasks.registry import model_card, publish
from tasks.registry.model_card import What
from tasks.settings import settings
from tasks.workspace import outcome
from tasks.workspace.files import link_or_copy
from tasks.workspace.progress import Progress
from tasks.workspace.run import Run


def push(run: Run) -> Publication:
    """Publish adapter, merged model, tokenizer and model card to the Hub or a folder, if this run promoted its version."""
    recipe, promotion = run.recipe, run.read(Promotion)
    if nothing := outcome.no_publication(run, promotion):
        raise nothing
    for step in ("register", "promote"):
        if run.generation(step) is None:
            raise ContractError(f"{run.id}: {step}.json", "made of earlier results", "of this run's present ones", f"run {step} again")
    where = settings().hub_url
    owner = publish.namespace(where)
    repositories: dict[What, str] = {"adapter": f"{owner}/{recipe.name}-lora", "model": f"{owner}/{recipe.name}"}
    message = f"{recipe.name} version {promotion.version}, trained on {run.read(DatasetVersion).tag}"
    published: dict[What, str] = {}
    with Progress(run, "push", "publishing", len(repositories), "repositories") as progress:
        for what, repository in repositories.items():
            folder = _build(run, what, repositories)
            published[what] = publish.publish(folder, where, repository, message)
            shutil.rmtree(folder)
            progress.advance(note=published[what])
    return Publication(published["adapter"], published["model"], f"{published['model'].replace('/tree/', '/blob/')}/README.md")


def _build(run: Run, what: What, repositories: dict[What, str]) -> Path:
    """The files of a repository in a folder of the attempt, weights hard-linked."""
    folder = run.attempt / what
    source = run.read(Adapter).path if what == "adapter" else run.read(MergedModel).path
    link_or_copy(run.path(source), folder)
    if what == "adapter":
        _name_base(folder / "adapter_config.json", run.read(Download).base_model.name)
    card = folder / "README.md"
    card.unlink(missing_ok=True)  # PEFT's own: a link, whose file must not be written to
    card.write_text(model_card.render(run, what, repositories), encoding="utf-8")
    return folder


def _name_base(config: Path, name: str) -> None:
    """Let the adapter name its base as others find it, not the folder it lay in here."""
    content = json.loads(config.read_text(encoding="utf-8"))
    content["base_model_name_or_path"] = name if model_card.on_hub(name) else model_card.base_label(name)
    config.unlink()
    config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
