"""What a recipe may say of its sweep: the grid of trainings that the DAG `sweep_<recipe>` compares."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from tasks.errors import explain
from tasks.schema.section import Section

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Sweep(Section):
    """A grid of training sizes and numbers of epochs, every point scored on the test part."""

    rows: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        min_length=1, max_length=50, description="Training sizes: rows drawn from the training part, as by train.rows."
    )
    epochs: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(
        min_length=1,
        max_length=50,
        description="Numbers of epochs. With a constant learning rate one training of a size is scored after each of them.",
    )
    metrics: tuple[str, ...] = Field(min_length=1, description="Metrics that are compared: a picture and a table each.")
    repeat_rows: int | None = Field(None, ge=1, description="The size that is trained with further seeds as well, one of the sizes.")
    repeat_seeds: tuple[Seed, ...] = Field(
        (), max_length=50, description="Those seeds, for mean and spread; the grid itself is trained with train.seed."
    )

    def _problems(self) -> Iterator[str]:
        for key in ("rows", "epochs", "metrics", "repeat_seeds"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                yield explain(f"{key} is {list(values)}", "each value once", "remove the others")
        if (self.repeat_rows is None) != (not self.repeat_seeds):
            yield explain("repeat_rows and repeat_seeds go together", fix="give both or neither")
        if self.repeat_rows is not None and self.repeat_rows not in self.rows:
            yield explain(f"repeat_rows is {self.repeat_rows}", f"one of rows ({', '.join(map(str, self.rows))})", "correct it")
