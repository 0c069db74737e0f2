"""What became of a run's version, in the sentences that the steps log and the table at the run's end shows."""

from tasks.contracts import Manifest, Promotion, Publication, RegisteredVersion
from tasks.errors import Skip
from tasks.workspace.run import Run

UNCHANGED = "so the aliases champion and challenger, and what is published, stay as they were"
HOW_TO_PROMOTE = "to promote and publish, use loraflow run with --promote, or Airflow's form with promotion auto or manual"
ANEW = "to answer anew, clear approve in Airflow, or "
HOW_TO_PUSH = "to publish, start a run with run.push true (in Airflow's form: push)"


def sentence(run: Run, manifest: Manifest) -> str | None:
    """What the step whose manifest it is did, or why it did nothing and what to do; None of a step that nobody has to be told about."""
    if isinstance(manifest, Promotion):
        return _promotion(run, manifest)
    if isinstance(manifest, Publication):
        return f"published to {manifest.model} and {manifest.adapter}"
    return None


def _promotion(run: Run, found: Promotion) -> str:
    if found.promoted:
        before = f"version {found.predecessor} was before it" if found.predecessor else "there was none before it"
        return f"{found.policy}: version {found.version} is the champion, {before}"
    what = f"version {found.version} was not promoted ({found.reason})"
    if found.policy == "never":
        return f"{what}, {UNCHANGED}; {HOW_TO_PROMOTE}"
    return f"{what}, so the champion stays as it was; {ANEW}{answer(run)}"


def waits_for_answer(run: Run) -> bool:
    """Whether a reviewer has to answer before the run's version can be promoted."""
    return run.recipe.run.promotion == "manual" and run.generation("approve") is None


def waiting(run: Run, registered: RegisteredVersion) -> str:
    """What is left to do where nobody has answered yet."""
    return f"version {registered.version} waits for a reviewer's answer (run.promotion is manual); to answer, {answer(run)}"


def answer(run: Run) -> str:
    """What a reviewer does who answers for a run at the command line."""
    return (
        f"use loraflow approve --run {run.uri} --by NAME --reason TEXT (to say no, add --decline), "
        f"then loraflow promote --run {run.uri} and loraflow push --run {run.uri}"
    )


def no_publication(run: Run, promotion: Promotion) -> Skip | None:
    """Why a run publishes nothing, and what to do; None where it publishes."""
    if not promotion.promoted:
        how = HOW_TO_PROMOTE if promotion.policy == "never" else ANEW + answer(run)
        return Skip(run.id, f"version {promotion.version} was not promoted ({promotion.reason}), so nothing is published", remedy=how)
    if not run.recipe.run.push:
        return Skip(run.id, "run.push is off, so nothing is published", remedy=HOW_TO_PUSH)
    return None
