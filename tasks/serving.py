"""The registered model as MLflow serves it: texts in, the label and every label's score out.

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

LABEL = "label"
SCORE = "score_"
"""Columns of a prediction: `label`, and `score_<label>` for each label in the recipe's order."""


class Classifier(PythonModel):  # type: ignore[misc]
    """A merged model with the prompt and the labels of its recipe."""

    def load_context(self, context: Any) -> None:
        """Load the weights.

        Args:
            context: its artifacts are `model`, the folder of the merged model, and `recipe`, the frozen recipe.
        """
        from tasks import recipe as recipes
        from tasks.models import load_model
        from tasks.tokens import Tokens

        self.recipe = recipes.read(Path(context.artifacts["recipe"]))
        folder = Path(context.artifacts["model"])
        self.tokens, self.model = Tokens(folder), load_model(folder, self.recipe.base_model.dtype)

    # MLflow takes an annotation of model_input for the whole signature and would drop the version's own.
    def predict(self, context, model_input, params=None) -> pd.DataFrame:  # type: ignore[no-untyped-def]
        """Label every text.

        Args:
            context: not used.
            model_input: (n_rows,) the texts; of a table the first column.
            params: not used.

        Returns:
            (n_rows, 1 + n_labels): `label`, and `score_<label>` for each label; a row's scores sum to 1.

        Raises:
            DataError: a text is missing or empty.
        """
        from tasks.kinds import kind_of

        texts = (model_input.iloc[:, 0] if isinstance(model_input, pd.DataFrame) else pd.Series(model_input)).tolist()
        for row, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"row {row}", "no text", "a text that is not empty expected", "leave such rows out")
        kind = kind_of(self.recipe)
        scores = kind.predict(self.recipe, self.model, self.tokens, texts)
        table = pd.DataFrame(scores, columns=[SCORE + name for name in self.recipe.labels.names])
        table.insert(0, LABEL, kind.labels_of(self.recipe, scores))
        return table


set_model(Classifier())
