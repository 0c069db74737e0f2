"""One Airflow DAG for each recipe with a grid: `sweep_ethos`, …: training sizes by epochs, compared in a table and pictures.

    start ─ preflight ─ download ─ validate ─ split ─ version ─ plan ─ trial [one for each size and seed] ─ compare

The data are prepared once. A trial is trained like a retraining, scored on the test part, and not kept.
"""

from functools import partial

from airflow.sdk import DAG, get_parsing_context

from dags.form import page, params, sound_forms
from dags.operators import retries, runners
from dags.operators.start import Start
from tasks.schema.form import Form
from tasks.schema.load import SWEEP_FORM

PAGE = """
*Sizes* and *epochs* are the grid. With a constant learning rate one training of a size is scored after each number of epochs. *Repeat
size* is trained with the *repeat seeds* as well, for mean and spread; `none` in both means no repeats. *Seed* trains the whole grid.

Every training and every point of the grid is a run of its own in MLflow, nested below the sweep's; `sweep_compare` puts table and pictures
there too. No model is kept, registered or promoted: take what you learned into the recipe, and retrain.
"""


def sweep(form: Form) -> DAG:
    """The sweep of one recipe."""
    with DAG(
        dag_id=f"sweep_{form.name}",
        description=f"{form.recipe.title}: training sizes by epochs",
        doc_md=page(form, PAGE),
        tags=["sweep", form.recipe.kind, form.recipe.language],
        params=params(form),
        default_args={"owner": "loraflow", **retries.RETRIES},
        schedule=None,
        catchup=False,
        max_active_runs=1,
    ) as dag:
        step = partial(runners.step, recipe=form.recipe)
        planned, trials = runners.trials(form.recipe)
        (
            Start(form=form)
            >> step("preflight")
            >> step("download")
            >> step("validate")
            >> step("split")
            >> step("version", trigger_rule="none_failed")  # validate and split are skipped where the data are there already
            >> planned
            >> trials
            >> step("sweep_compare")
            >> runners.closing(form.recipe)
        )
    return dag


_wanted = get_parsing_context().dag_id  # inside a task only its own DAG is built
for _form in sound_forms(_wanted and _wanted.removeprefix("sweep_"), SWEEP_FORM):
    if all(recipe.sweep for recipe in _form.in_profile.values()):
        globals()[f"sweep_{_form.name}"] = sweep(_form)
