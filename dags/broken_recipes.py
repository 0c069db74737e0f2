"""No DAG: the faults of recipe files as this file's import error, so that Airflow shows why a recipe has no DAG.

It stands apart from `retrain.py` because Airflow takes every DAG of a file with an import error out of service.
"""

from airflow.sdk import get_parsing_context

from dags.form import faults_of_recipes
from tasks.errors import RecipeErrors

if get_parsing_context().dag_id is None and (found := faults_of_recipes()):
    raise RecipeErrors(found)
