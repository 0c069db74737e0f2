"""From `train` and `merge`: the adapter, what its training spent, the merged model."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class TrackedRun:
    """The MLflow run that a loraflow run writes to."""

    run_id: str
    experiment_id: str
    url: str


@dataclass(frozen=True)
class Emissions:
    """What a training spent, all its attempts together."""

    energy_kwh: float
    """Of the whole machine."""
    co2eq_kg: float
    intensity_kg_per_kwh: float
    """CO2 equivalent of the electricity."""
    electricity_of: str
    """Three-letter code of the country, or `world average`."""
    processor_measured: bool
    """Whether the processor's energy was read from its counters; otherwise estimated by nominal power and load."""
    attempts: int
    """More than one: an attempt that was killed counts up to its last checkpoint only."""


@dataclass(frozen=True)
class Adapter:
    """From `train`: the LoRA adapter as PEFT saves it."""

    step: ClassVar[str] = "train"
    path: str
    tracked: TrackedRun
    rows: int
    steps: int
    epochs: float
    final_loss: float
    """Mean loss over the last logged steps, nats a token."""
    trainable_parameters: int
    all_parameters: int
    cut_rows: int
    """Rows whose text was cut to fit max_tokens."""
    seconds: float
    resumed_from_step: int
    """0 where the training began afresh."""
    emissions: Emissions | None = None
    """None for a training that was not metered."""
    left_out_rows: int = 0
    """Rows not trained on, since their answer leaves their text too little room in max_tokens."""
    halvings: int = 0
    """How often the batch of a forward pass was halved for want of memory; the rows of a step are the recipe's."""
    rows_file: str | None = None
    """Parquet, a line for each row of the data set that was trained on: `row` and `file`, as in the data set's parts (`file` is `data`
    where there is one file); `cut`, whether its text was cut; `times`, how often it is among the rows of an epoch; `passes`, how often
    the training passed over it. None for an adapter of before there was one."""


@dataclass(frozen=True)
class MergedModel:
    """From `merge`: the base with the adapter in it, as a user loads it."""

    step: ClassVar[str] = "merge"
    path: str
    dtype: str
    merged_weights: int
    """How many of the base's weight matrices the adapter changed."""
