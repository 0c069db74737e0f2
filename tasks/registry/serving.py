"""The registered model as MLflow serves it: texts in, what the recipe's kind answers out.

MLflow keeps this file and the package beside the weights and runs it where the model is loaded (models from code), so a
version serves with the code that it was evaluated with, also where loraflow is not installed.
"""

# ruff: noqa: TID253 — MLflow itself runs this file, and reads the annotations below; no step imports it
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from tasks.errors import DataError


class Tuned(PythonModel):  # type: ignore[misc]
    """A merged model with the prompt and the labels of its recipe."""

    def load_context(self, context: Any) -> None:
        """Load the weights.

        Args:
            context: its artifacts are `model`, the folder of the merged model, and `recipe`, the frozen recipe.
        """
        from tasks.kinds.base import classes_of
        from tasks.model.load import load_model
        from tasks.model.tokenizer import Tokens
        from tasks.schema import load as recipes

        self.recipe = recipes.read(Path(context.artifacts["recipe"]))
        folder = Path(context.artifacts["model"])
        self.tokens, self.model = Tokens(folder), load_model(folder, self.recipe.base_model.dtype, classes_of(self.recipe))

    # MLflow takes an annotation of model_input for the whole signature and would drop the version's own.
    def predict(self, context, model_input, params=None) -> pd.DataFrame:  # type: ignore[no-untyped-def]
        """Answer every text, as the recipe's kind does.

        Args:
            context: not used.
            model_input: (n_rows,) the texts; of a table the first column.
            params: not used.

        Returns:
            (n_rows, n_columns): the kind's `response`; of label scoring `label`, and `score_<label>` for each label.

        Raises:
            DataError: a text is missing or empty.
        """
        from tasks.kinds.base import kind_of

        texts = (model_input.iloc[:, 0] if isinstance(model_input, pd.DataFrame) else pd.Series(model_input)).tolist()
        for row, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"row {row}", "no text", "a text that is not empty", "leave such rows out")
        kind = kind_of(self.recipe)
        return pd.DataFrame(kind.respond(self.recipe, self.model, self.tokens, texts), columns=list(kind.response(self.recipe)))


set_model(Tuned())
