"""A user in a real browser: open the DAG, read about it, fill in the form, watch the run go green, follow the links to MLflow."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from tasks.contracts import STEPS
from tasks.schema.recipe import Recipe
from tasks.workspace.location import run_folder
from tasks.workspace.run import RECIPE, Run
from tests.pipeline import browser
from tests.pipeline.shell import Shell
from tests.support import tiny
from tests.support.processes import until

pytestmark = [
    pytest.mark.trains,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_csv: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("browser"), tiny_base, tiny_csv)
    recipes = Path(shell.env["LORAFLOW_RECIPES"])
    document = tiny.recipe_document(tiny_base, tiny_csv.with_name("missing.csv"), "typed")  # its runs end soon
    document |= {"local": {"train": {"rows": 90, "learning_rate": 3e-4}}}
    (recipes / "typed.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    code, said = shell.type("up")
    assert code == 0, said
    yield shell
    shell.type("down")


def test_a_user_retrains_from_the_form_and_follows_the_links(shell: Shell) -> None:
    with browser.browser_page() as page:
        journey = browser.Journey(page, f"http://127.0.0.1:{shell.env['LORAFLOW_AIRFLOW_PORT']}", "tiny")
        journey.open_dag()
        documentation = journey.read_documentation()
        assert "For tests." in documentation and "Licence of the base model" in documentation and "The form." in documentation

        form = journey.open_form()
        assert form.locator("[name=element_rank]").input_value() == ""  # the recipe's own value
        assert "Rank of the adapter. A whole number from 1 to 1024. If empty: 8." in form.inner_text()
        journey.fill(form, {"base_model": "no model"})
        assert "Invalid input for param base_model: 'no model' does not match" in journey.is_refused(form)
        assert shell.run_states() == {}

        form = journey.open_form()
        journey.fill(form, {"rank": "4"})
        journey.trigger(form)
        journey.watch()
        assert journey.green_tasks() == len(("start", *STEPS, "approve"))
        until(lambda: list(shell.run_states().values()) == ["success"])  # a moment after its last task
        assert "train: training 117/117 steps (100%)" in journey.read_log("train")
        assert "/#/experiments/" in journey.follow_link("train", "Model metrics")
        assert journey.follow_link("push", "champion").endswith("/#/models/tiny/versions/1")


WRONG = {"rows": ["1,000", "1 000", "-5", "9e2"], "epochs": ["0,5", "nan"], "learning_rate": ["2e-4x"], "rank": ["8.5"]}


def test_what_is_typed_is_frozen_or_refused_and_never_another_number(shell: Shell) -> None:
    """Airflow's own number field made 1 of 2e-4, 1,000 and -5, and 1024 of 100000."""
    with browser.browser_page() as page:
        address = f"http://127.0.0.1:{shell.env['LORAFLOW_AIRFLOW_PORT']}"
        journey = browser.Journey(page, address, "typed")
        journey.open_dag()
        before = shell.run_states()
        for name, texts in WRONG.items():
            for text in texts:
                form = journey.open_form()
                journey.fill(form, {name: text})
                assert form.locator(f"[name=element_{name}]").input_value() == text
                assert f"Invalid input for param {name}: '{text}' does not match" in journey.is_refused(form)
        assert shell.run_states() == before

        form = journey.open_form()
        journey.fill(form, {"rows": "90", "learning_rate": "2e-4", "epochs": "0.5"})
        journey.section(form, "This run")
        journey.choose(form, "profile", "full")
        journey.trigger(form)
        frozen = recipe_of(shell, journey.run)
        assert (frozen.profile, frozen.train.rows, frozen.train.learning_rate, frozen.train.num_train_epochs) == ("full", 90, 0.0002, 0.5)
        assert (frozen.lora.r, frozen.train.seed) == (8, 3)

        journey.open_dag()
        form = journey.open_form()
        journey.fill(form, {"rank": "100000", "learning_rate": "2"})
        journey.trigger(form)
        log = journey.read_log("start", "rank is '100000' (expected: a whole number from 1 to 1024). Fix: correct the value")
        assert "trigger form of typed: learning_rate is '2' (expected: a number above 0 and up to 1). Fix: correct the value" in log


def recipe_of(shell: Shell, run_page: str) -> Recipe:
    """The recipe that `start` froze for the run at this address."""
    run = Run(run_folder(shell.places.home / "runs", "typed", unquote(run_page.rsplit("/", 1)[-1])))
    until(lambda: (run.folder / RECIPE).exists())
    return run.recipe
