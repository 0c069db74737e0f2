"""One Airflow DAG for each recipe file: `retrain_tweets`, `retrain_ethos`, …; a new YAML file is a new DAG.

    start ─ preflight ─ download ─ validate ─ split ─ version ─ train ─ merge ─ evaluate ─ register ─ approve ─ promote ─ push

`start` freezes the recipe with the trigger form's values into the run's folder; every step reads it there. A recipe that is
faulty has no DAG here; `broken_recipes.py` says why.
"""

from functools import partial

from airflow.sdk import DAG, get_parsing_context

from dags.form import page, params, sound_forms
from dags.operators import retries, runners
from dags.operators.approve import Approve
from dags.operators.start import Start
from tasks.schema.form import Form


def retrain(form: Form) -> DAG:
    """The DAG of one recipe."""
    with DAG(
        dag_id=f"retrain_{form.name}",
        description=form.recipe.title,
        doc_md=page(form),
        tags=["retrain", form.recipe.kind, form.recipe.language],
        params=params(form),
        default_args={"owner": "loraflow", **retries.RETRIES},
        schedule=None,
        catchup=False,
        max_active_runs=1,  # a second run of the recipe queues; other recipes run beside it
    ) as dag:
        step = partial(runners.step, recipe=form.recipe)
        (
            Start(form=form)
            >> step("preflight")
            >> step("download")
            >> step("validate")
            >> step("split")
            >> step("version", trigger_rule="none_failed")  # validate and split are skipped where the data are there already
            >> step("train")
            >> step("merge")
            >> step("evaluate")
            >> step("register")
            >> Approve(recipe=form.name)
            >> step("promote")
            >> step("push")
            >> runners.closing(form.recipe)
        )
    return dag


_wanted = get_parsing_context().dag_id  # inside a task only its own DAG is built
for _form in sound_forms(_wanted and _wanted.removeprefix("retrain_")):
    globals()[f"retrain_{_form.name}"] = retrain(_form)
