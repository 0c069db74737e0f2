"""`start`: the recipe with the trigger form's values, checked as a whole and frozen into the run's folder."""

from typing import Any

from airflow.sdk import BaseOperator

from dags.operators import retries
from tasks.doctor.pod_settings import missing_for_pods
from tasks.errors import SettingsError
from tasks.schema.form import Form
from tasks.schema.recipe import Recipe
from tasks.settings import settings
from tasks.workspace.location import run_folder
from tasks.workspace.run import RECIPE, Run


def run_of(recipe: str, run_id: str) -> Run:
    """The run of a recipe that an Airflow run is."""
    return Run(run_folder(settings().runs_folder, recipe, run_id))


def generation_of(task: BaseOperator, context: Any) -> int:
    """The generation of a task's step: a clear raises max_tries, and so the generation; a retry does not."""
    generation: int = context["ti"].max_tries - task.retries
    return generation


class Start(BaseOperator):
    """Check the recipe with the form's values and freeze it for this run.

    Args:
        form: the DAG's form.
    """

    def __init__(self, form: Form, **kwargs: Any) -> None:
        super().__init__(task_id="start", doc_md=__doc__, do_xcom_push=False, **kwargs)
        self.recipe, self.fields = form.name, {name: field.key for name, field in form.fields.items()}

    def execute(self, context: Any) -> None:
        """Freeze the recipe as its file stands now."""
        with retries.explain_errors(self.log):
            form = Form.read(settings().recipes / f"{self.recipe}.yaml", self.fields)
            filled = form.fill(context["dag_run"].conf or {})
            recipe = filled.recipe
            self._check_settings(recipe)
            self.log.info("profile %s of recipe %s", recipe.profile, recipe.name)
            for line in filled.sources():
                self.log.info("%s", line)
            for line in filled.warnings():
                self.log.warning("%s", line)
            run = run_of(self.recipe, context["run_id"])
            run.freeze(recipe)
            self.log.info("frozen in %s\n%s", run.address(RECIPE), recipe.dump())

    def _check_settings(self, recipe: Recipe) -> None:
        """Pods need more to be set than processes beside Airflow do: all that is missing at once, before anything is fetched."""
        where = settings()
        if where.runner == "kubernetes":
            steps = [task for task in self.dag.task_ids if recipe.pods.take(task)]
            if missing := missing_for_pods(where, steps):
                retries.end(self.log, SettingsError.exit_code, "\n".join(("SettingsErrors", *map(str, missing))))
