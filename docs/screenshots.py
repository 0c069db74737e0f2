"""Take the pictures of this documentation anew: `make screenshots`.

Goes a user's way through Airflow's and MLflow's pages, as tests/pipeline/test_shell.py does, on the demo's recipe with fewer
rows, and keeps a picture of each page in docs/images. Needs Chromium.
"""

import sys
from pathlib import Path

from rich.console import Console

from tasks.local_servers import start_stop
from tests.pipeline.browser import Journey, browser_page

IMAGES = Path(__file__).parent / "images"


def main(recipe: str = "tweets") -> None:
    """Retrain a recipe from the form and keep the pictures."""
    with start_stop.running(Console()) as state, browser_page() as page:
        journey = Journey(page, state.airflow, recipe, IMAGES)
        journey.open_dag()
        journey.read_documentation()
        form = journey.open_form()
        journey.fill(form, {"rows": "450"})
        journey.trigger(form)
        journey.watch()
        journey.read_log("train")
        journey.follow_link("train", "Model metrics")
        journey.follow_link("push", "champion")


if __name__ == "__main__":
    main(*sys.argv[1:])
