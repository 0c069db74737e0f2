"""A user in a real browser: open the DAG, read about it, fill in the form, watch the run go green, follow the links to MLflow."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.contracts import STEPS
from tests.pipeline import browser
from tests.pipeline.shell import Shell
from tests.processes import until

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_csv: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("browser"), tiny_base, tiny_csv)
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
        assert form.locator("[name=element_rank]").input_value() == "8"  # the recipe's own value
        assert "Passes over the training rows." in form.inner_text()
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
