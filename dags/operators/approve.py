"""`approve`: under the policy `manual` a reviewer says whether the new version becomes the champion; no answer means no.

Under `auto` and `never` nobody is asked. The answer is a file in the run's folder; `promote` acts on it.
"""

from datetime import datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator
from airflow.sdk import Param

from dags.operators import retries
from dags.operators.mlflow_link import MlflowLink
from dags.operators.start import run_of
from tasks.contracts import Approval, Evaluation, RegisteredVersion
from tasks.metrics.score_table import score_table
from tasks.workspace.run import Run


class Approve(ApprovalOperator):
    """Ask a reviewer where the run's recipe says so."""

    operator_extra_links = (MlflowLink(),)

    def __init__(self, recipe: str, **kwargs: Any) -> None:
        reason = Param("", type="string", maxLength=2000, title="Reason", description="Kept with the version.", source="task")
        super().__init__(
            task_id="approve",
            doc_md=__doc__,
            subject=f"Promote the new version of {recipe}?",
            defaults=self.REJECT,
            do_xcom_push=False,
            **{**kwargs, "params": {"reason": reason}},  # Airflow hands in the DAG's own params, which are no part of the question
        )
        self.recipe = recipe

    def execute(self, context: Any) -> None:
        """Ask, and park the task until the answer; it holds no worker meanwhile."""
        with retries.explain_errors(self.log):
            run = run_of(self.recipe, context["run_id"])
            options = run.recipe.run
            if options.promotion != "manual":
                self.log.info("promotion is %s: nobody is asked", options.promotion)
                return
            self.response_timeout = timedelta(hours=options.approval_hours)
            evaluation, version = run.read(Evaluation), run.read(RegisteredVersion)
            self.subject = f"Make version {version.version} of {version.name} the champion?"
            self.body = question(evaluation, version, run, datetime.now().astimezone() + self.response_timeout)
            self.log.info("asking a reviewer, for at most %g hours; no answer means no", options.approval_hours)
        super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> None:
        """Write the answer down; a refusal goes on to `promote` too, which records it."""
        answer = HITLOperator.execute_complete(self, context, event)  # ApprovalOperator's own would skip promote
        with retries.explain_errors(self.log):
            run = run_of(self.recipe, context["run_id"])
            run.read(Evaluation), run.read(RegisteredVersion)  # the answer counts for these, and for no later ones
            approval = _approval(answer, self.APPROVE)
            run.write(approval)
            self.log.info("%s by %s: %s", "approved" if approval.approved else "refused", approval.by, approval.reason or "no reason given")


def _approval(answer: Any, yes: str) -> Approval:
    user = answer["responded_by_user"]
    if user is None:
        return Approval(approved=False, by="nobody", reason="no answer in time")
    given = str(answer["params_input"].get("reason") or "")
    return Approval(approved=answer["chosen_options"] == [yes], by=str(user["name"] or user["id"]), reason=given)


def question(evaluation: Evaluation, version: RegisteredVersion, run: Run, until: datetime) -> str:
    """What the reviewer reads, in Markdown: the figures side by side, the gate's opinion, where to look further."""
    parity, confidence = evaluation.parity, run.recipe.evaluate.confidence
    champion = "" if evaluation.champion is not None else "There is no champion yet. "
    return "\n\n".join(
        (
            f"**{version.name} version {version.version}**, scored on the same {evaluation.rows:,} test rows, "
            f"with {confidence:.0%} intervals. {champion}",
            score_table(evaluation, f"challenger (version {version.version})").markdown(),
            f"Merged model and adapter agree on {parity.same_labels} of {parity.rows} rows; largest difference of a score "
            f"{parity.largest_difference:.2g}.",
            f"The gate would say **{'yes' if evaluation.verdict.passed else 'no'}**:",
            "\n".join(f"- {reason}" for reason in evaluation.verdict.reasons),
            f"[The version in MLflow]({version.url}) · the report: `{run.address(evaluation.report)}`",
            f"No answer until {until:%Y-%m-%d %H:%M %Z} means no.",
        )
    )
