"""A user's way through Airflow's and MLflow's pages in a real browser, with a picture of each page where wanted."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SIZE = {"width": 1400, "height": 900}
PATIENCE_MS = 60_000
RUN_MS = 1_800_000


@contextmanager
def browser_page() -> Iterator[Page]:
    """A page in the machine's own Chromium; what its scripts complain of fails the block."""
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        page = browser.new_context(viewport=SIZE, reduced_motion="reduce").new_page()  # type: ignore[arg-type]
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        yield page
        browser.close()
        assert not faults, faults


class Journey:
    """The way, a station a method, in this order.

    Args:
        page: where it happens.
        airflow: address of Airflow's UI.
        recipe: name of the recipe whose DAG is visited.
        pictures: folder for the pictures; none are kept without it.
        run: id of a run to begin at.
    """

    def __init__(self, page: Page, airflow: str, recipe: str, pictures: Path | None = None, *, run: str = "") -> None:
        self.page, self._airflow, self._recipe, self._pictures = page, airflow, recipe, pictures
        self.run = self._run_page(run)
        """Address of the run's page, once there is one."""

    def open_dag(self) -> None:
        """From the list of DAGs to the recipe's."""
        self.page.goto(f"{self._airflow}/dags")
        self.page.get_by_role("link", name=f"retrain_{self._recipe}").first.wait_for()
        self._settle()
        self._keep("dags")
        self.page.get_by_role("link", name=f"retrain_{self._recipe}").first.click()
        expect(self.page.get_by_role("heading", name=f"retrain_{self._recipe}")).to_be_visible()

    def read_documentation(self) -> str:
        """The DAG's documentation, as text."""
        self.page.get_by_role("button", name="Dag Docs").click()
        dialog = self.page.get_by_role("dialog").filter(has_text="Dag Documentation")
        dialog.get_by_text("Recipe file").wait_for()
        self._settle()
        self._keep("documentation")
        text = dialog.inner_text()
        self.page.keyboard.press("Escape")
        dialog.wait_for(state="hidden")
        return text

    def open_form(self) -> Locator:
        """The trigger form, its fields for the training unfolded."""
        self.page.get_by_role("button", name="Trigger Dag").first.click()
        form = self.page.get_by_role("dialog").filter(has_text="Trigger Dag")
        self.section(form, "Training")
        return form

    def section(self, form: Locator, name: str) -> None:
        """Unfold one section of the form; Airflow folds the other."""
        form.get_by_role("button", name=name, exact=True).click()
        self._settle()

    def fill(self, form: Locator, values: Mapping[str, str]) -> None:
        """Type values into fields of the unfolded section, key by key."""
        for name, value in values.items():
            form.locator(f"[name=element_{name}]").press("Control+A")
            self.page.keyboard.type(value)
            self.page.keyboard.press("Tab")

    def choose(self, form: Locator, name: str, value: str) -> None:
        """Choose a value of a list in the unfolded section by the keyboard."""
        form.locator(f"#element_{name} input").first.press_sequentially(value)
        self.page.keyboard.press("Enter")

    def is_refused(self, form: Locator) -> str:
        """Press the form's button with a bad value; what the form says. The page is loaded anew: a notice covers its button."""
        form.get_by_role("button", name="Trigger", exact=True).click()
        alert = form.get_by_text("Invalid input for param")
        alert.wait_for()
        text = alert.inner_text()
        self.page.reload()
        return text

    def trigger(self, form: Locator) -> None:
        """Press the form's button, and go to the run that it makes."""
        self._keep("form")
        with self.page.expect_response(lambda answer: answer.request.method == "POST" and answer.url.endswith("/dagRuns")) as made:
            form.get_by_role("button", name="Trigger", exact=True).click()
        form.wait_for(state="hidden")
        self.run = self._run_page(made.value.json()["dag_run_id"])
        self.page.goto(self.run)
        self.page.get_by_role("button", name="Show Graph").click()

    def watch(self) -> None:
        """See the graph's tasks go green, one after the other."""
        self._node("train", "running").wait_for(timeout=RUN_MS)
        self._keep_grid("running")
        self._node("push", "success").wait_for(timeout=RUN_MS)
        expect(self.page.get_by_text("Success", exact=True).first).to_be_visible()
        self._keep_grid("green")

    def green_tasks(self) -> int:
        """How many tasks of the graph are green."""
        return self.page.locator(".react-flow__node").filter(has_text="success").count()

    def read_log(self, task: str, expected: str = "") -> str:
        """A task's log, as text.

        Args:
            task: its name.
            expected: a text that the log must show; without one, the command of the task's step.
        """
        self.page.goto(f"{self.run}/tasks/{task}")
        self.page.get_by_text(expected or f"-m tasks {task}").first.wait_for()
        self._settle()
        if self._pictures:
            self.page.get_by_role("button", name="fullscreen").click()  # beside the graph its lines are cut off
            self._settle()
            self._keep("log")
        return self.page.locator("main, #root").first.inner_text()

    def follow_link(self, task: str, expected: str) -> str:
        """From a task to what MLflow holds of it; the address.

        Args:
            expected: a text that MLflow's page must show.
        """
        self.page.goto(f"{self.run}/tasks/{task}/details")
        with self.page.context.expect_page() as opened:
            self.page.get_by_role("link", name="MLflow").click()
        mlflow = opened.value
        mlflow.set_viewport_size(SIZE)  # type: ignore[arg-type]
        mlflow.set_default_timeout(PATIENCE_MS)
        mlflow.get_by_text(expected).first.wait_for()
        self._settle(mlflow)
        self._keep(f"mlflow-{task}", mlflow)
        address = mlflow.url
        mlflow.close()
        return address

    def _run_page(self, run_id: str) -> str:
        return f"{self._airflow}/dags/retrain_{self._recipe}/runs/{run_id}"

    def _node(self, task: str, state: str) -> Locator:
        return self.page.locator(".react-flow__node").filter(has_text=task).filter(has_text=state)

    def _settle(self, page: Page | None = None) -> None:
        """Let the page draw what it has asked for."""
        (page or self.page).wait_for_timeout(2_000 if self._pictures else 300)

    def _keep_grid(self, name: str) -> None:
        """A picture with the grid in place of the graph, whose boxes are too small to read in a picture."""
        if self._pictures:
            self.page.get_by_role("button", name="Show Grid").click()
            self._settle()
            self._keep(name)
            self.page.get_by_role("button", name="Show Graph").click()

    def _keep(self, name: str, page: Page | None = None) -> None:
        if self._pictures:
            self._pictures.mkdir(parents=True, exist_ok=True)
            (page or self.page).screenshot(path=self._pictures / f"{name}.png")
