"""The model card of a published model or adapter: front matter that the Hub reads, and prose with the run's own figures.

It holds no text of the data, and no path of the machine that made it.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tasks.contracts import (
    Adapter,
    BaseModelFiles,
    DatasetVersion,
    Download,
    Evaluation,
    MergedModel,
    Promotion,
    RegisteredVersion,
    ValidRows,
)  # fmt: skip
from tasks.kinds.base import kind_of
from tasks.metrics import markdown
from tasks.metrics.score_table import score_table
from tasks.schema.data import Source
from tasks.schema.recipe import Recipe
from tasks.workspace.progress import clock
from tasks.workspace.run import Run

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

What = Literal["model", "adapter"]

LINEAGE = (
    "loraflow.run", "data", "data_hash", "training_rows", "training_rows_sha256", "recipe_hash", "profile", "seed", "code", "code_changed",
    "loraflow", "torch", "transformers", "peft", "mlflow", "dvc",
)  # fmt: skip
"""Tags of the version that the card repeats; the others may name machines and folders."""

TRAIN_KEYS = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "per_device_train_batch_size",
    "gradient_accumulation_steps", "optim", "seed",
)  # fmt: skip


def render(run: Run, what: What, repositories: dict[What, str]) -> str:
    """The card of one of the two repositories.

    Args:
        run: a run that is done up to `promote`.
        what: whose card.
        repositories: namespace/name of both.

    Returns:
        Markdown with YAML front matter.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    recipe, base = run.recipe, run.read(Download).base_model
    environment = Environment(  # noqa: S701 — Markdown, not HTML
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template("model_card.md.j2").render(
        what=what,
        front_matter=_front_matter(run, what, repositories[what]),
        recipe=recipe,
        repositories=repositories,
        facts=_facts(run),
        parts=_parts(run),
        source=_source(recipe),
        validation=_validation(run),
        adapter=run.read(Adapter),
        evaluation=run.read(Evaluation),
        results=score_table(run.read(Evaluation), "this model", "predecessor").markdown(),
        promotion=run.read(Promotion),
        wording=kind_of(recipe).wording(recipe),
        hyperparameters=_hyperparameters(recipe),
        merged=run.read(MergedModel),
        registered=run.read(RegisteredVersion),
        where=_where(what, repositories),
        snippet=_snippet(recipe, what, repositories, base),
        lineage=markdown.table(["", ""], [[key, value] for key, value in run.read(RegisteredVersion).tags.items() if key in LINEAGE]),
        clock=clock,
    )


def base_label(name: str) -> str:
    """A base model's name as others may read it: of a local folder only its last part."""
    return f"local folder {Path(name).name}" if name.startswith("folder:") else name


def on_hub(name: str) -> bool:
    """Whether a base model's name is a Hub id."""
    return not name.startswith(("folder:", "pypi:"))


def hub_metric(name: str) -> str:
    """The Hub's name of a metric: `f1` for the mean ones and for those of one label, otherwise our own."""
    return "f1" if name.startswith("f1_") or name.endswith("_f1") else name


def _front_matter(run: Run, what: What, repository: str) -> str:
    from huggingface_hub import ModelCardData

    recipe, base, kind = run.recipe, run.read(Download).base_model, kind_of(run.recipe)
    task = kind.wording(recipe).task
    card = ModelCardData(
        language=recipe.language,
        license="other",
        license_name="base-model-and-data-licences",
        library_name="transformers" if what == "model" else "peft",
        pipeline_tag=task if kind.HEAD == "classification" else "text-generation",
        base_model=base.name if on_hub(base.name) else None,
        base_model_relation=("finetune" if what == "model" else "adapter") if on_hub(base.name) else None,
        tags=["loraflow", "lora", task, "content-safety", recipe.kind.replace("_", "-")],
        metrics=sorted({hub_metric(name) for name in run.read(Evaluation).tuned}),
        model_name=repository.partition("/")[2],
        eval_results=_eval_results(run),
    )
    return f"---\n{card.to_yaml()}\n---"


def _eval_results(run: Run) -> "list[EvalResult]":
    from huggingface_hub import EvalResult

    recipe, data = run.recipe, run.read(DatasetVersion)
    return [
        EvalResult(
            task_type=kind_of(recipe).wording(recipe).task,
            dataset_type=recipe.name,
            dataset_name=recipe.title,
            dataset_split="test",
            dataset_revision=data.tag,
            metric_type=hub_metric(name),
            metric_name=name,
            metric_value=round(score.value, 4),
        )
        for name, score in run.read(Evaluation).tuned.items()
        if math.isfinite(score.value)
    ]


def _facts(run: Run) -> str:
    recipe, base, adapter, data = run.recipe, run.read(Download).base_model, run.read(Adapter), run.read(DatasetVersion)
    registered = run.read(RegisteredVersion)
    labels = [["Labels", ", ".join(f"`{name}`" for name in recipe.labels.names)]] if recipe.labels.names else []
    return markdown.table(
        ["", ""],
        [
            *labels,
            ["Language of the texts", recipe.language],
            ["Base model", f"{base_label(base.name)}, revision `{base.revision}`"],
            ["Adapter", f"LoRA, rank {recipe.lora.r}, {adapter.trainable_parameters:,} of {adapter.all_parameters:,} parameters trained"],
            ["Data set", f"`{data.tag}`, hash `{data.data_hash}`"],
            ["Registered as", f"`{registered.name}` version {registered.version} in MLflow"],
        ],
    )


def _parts(run: Run) -> str:
    names = run.recipe.labels.names
    parts = run.read(DatasetVersion).parts
    rows = [[name, f"{part.rows:,}", *(f"{part.labels.get(label, 0):,}" for label in names)] for name, part in parts.items()]
    return markdown.table(["part", "rows", *names], rows)


def _source(recipe: Recipe) -> str:
    apart = "; pooled with " if recipe.split.published == "pooled" else "; test rows: "
    return apart.join(_file(table.source) for table in recipe.data.tables())


def _file(source: Source) -> str:
    if source.pypi:
        return f"`{source.member}` of the PyPI package `{source.pypi}`"
    if source.hub:
        return f"`{source.member}` of the data set `{source.hub}` on the Hub, revision `{source.revision}`"
    name = source.url or (source.file.name if source.file else Path(source.mirror or "").name)
    return f"`{name}`" + (f", sha256 `{source.sha256}`" if source.sha256 else "")


def _validation(run: Run) -> str:
    if not run.has(ValidRows):
        return f"by the run that made `{run.read(DatasetVersion).tag}`"
    rows = run.read(ValidRows)
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in rows.rejected.items())
    return f"{rows.read:,} rows read, {rows.valid:,} valid, {rows.read - rows.valid:,} rejected" + (f" ({reasons})" if reasons else "")


def _hyperparameters(recipe: Recipe) -> str:
    lora, targets = recipe.lora, recipe.lora.target_modules
    rows = [
        ["LoRA rank, alpha, dropout", f"{lora.r}, {lora.lora_alpha}, {lora.lora_dropout:g}"],
        ["adapted layers", targets if isinstance(targets, str) else ", ".join(targets)],
        *([key, getattr(recipe.train, key)] for key in TRAIN_KEYS),
    ]
    return markdown.table(["", ""], rows)


def _where(what: What, repositories: dict[What, str]) -> str:
    return (
        f"`{repositories[what]}` is the repository's name on the Hub. Where it was published to a folder, run this from the folder"
        f" that holds `{repositories[what].partition('/')[0]}/`."
    )


def _snippet(recipe: Recipe, what: What, repositories: dict[What, str], base: BaseModelFiles) -> str:
    """Python that loads the model and answers a text as the evaluation did."""
    kind = kind_of(recipe)
    auto = {"causal": "AutoModelForCausalLM", "classification": "AutoModelForSequenceClassification"}[kind.HEAD]
    if what == "model":
        imports, load = "", f'model = {auto}.from_pretrained("{repositories["model"]}")'
    else:
        imports = "from peft import PeftModel\n"
        place = base.name if on_hub(base.name) else f"FOLDER OF THE BASE MODEL ({base_label(base.name)})"
        labels = f", num_labels={len(recipe.labels.names)}" if kind.HEAD == "classification" else ""
        load = f'base = {auto}.from_pretrained("{place}"{labels})\n'
        if recipe.prompt.new_tokens:
            load += "base.resize_token_embeddings(max(len(tokenizer), base.get_input_embeddings().num_embeddings))\n"
        load += f'model = PeftModel.from_pretrained(base, "{repositories["adapter"]}")'
        load += ".merge_and_unload()" if recipe.prompt.new_tokens else ""  # unmerged, PEFT leaves out an output layer's bias
    return f"""import torch
{imports}from transformers import {auto}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repositories["model"]}")
{load}
{kind.snippet(recipe)}"""
