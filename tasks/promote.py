"""Make the registered version the champion, if the recipe's policy and the gate let it.

Reads   DatasetVersion, Evaluation, RegisteredVersion, Approval     runs/<id>/version.json, evaluate.json, register.json, approve.json
Uses    run.promotion, gate.*                                       of the recipe
Writes  Promotion                                                   runs/<id>/promote.json

The gate's verdict is `evaluate`'s. Where another version has become champion since, the gate is asked again with the scores
that the new champion's tags carry.
"""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tasks.contracts import Approval, DatasetVersion, Evaluation, Promotion, RegisteredVersion, Score, Verdict
from tasks.errors import ContractError, GateError
from tasks.evaluation import gate
from tasks.registry import tracking
from tasks.registry.champion import ALIAS, champion_version
from tasks.registry.lineage import CHALLENGER, DATA_HASH_TAG, SCORES_TAG
from tasks.workspace.run import Run

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROMOTION_TAG = "promotion"
"""What became of a version: promoted, refused (by the gate), declined (by a reviewer), or not asked for (by run.promotion)."""


def promote(run: Run) -> Promotion:
    """Set the alias champion by the run's policy: the gate decides, a reviewer decides, or nobody does."""
    policy, registered = run.recipe.run.promotion, run.read(RegisteredVersion)
    if policy == "never":
        with tracking.mlflow_errors("promote"):
            tracking.client().set_model_version_tag(registered.name, str(registered.version), PROMOTION_TAG, "not asked for")
        return Promotion(False, policy, registered.version, None, "run.promotion is never")
    if run.generation("register") is None:
        raise ContractError(f"{run.id}: register.json", "made of an earlier evaluation or model", "this one's", "run register again")
    approval = _approval(run) if policy == "manual" else None
    client = tracking.client()
    with tracking.mlflow_errors("promote"):
        if approval and not approval.approved:
            reason = f"declined by {approval.by}: {approval.reason or 'no reason given'}"
            client.set_model_version_tag(registered.name, str(registered.version), PROMOTION_TAG, reason)
            return Promotion(False, policy, registered.version, None, reason)
        champion = champion_version(client, registered.name)
        reason = _judge(run, client, registered, champion, approval)
        predecessor = _set_champion_alias(client, registered, champion, by=approval.by if approval else "the gate", reason=reason)
    return Promotion(True, policy, registered.version, predecessor, reason)


def _approval(run: Run) -> Approval:
    """The reviewer's answer to this very evaluation."""
    where, remedy = f"{run.id}: approve.json", f"answer with loraflow approve --run {run.uri} --by NAME --reason TEXT (or --decline)"
    if not run.has(Approval):
        raise ContractError(where, "not there", "a reviewer's answer, since run.promotion is manual", remedy)
    if run.generation("approve") is None:
        raise ContractError(where, "answers an earlier evaluation", "an answer to this one", remedy)
    return run.read(Approval)


def _judge(run: Run, client: "MlflowClient", registered: RegisteredVersion, champion: int | None, approval: Approval | None) -> str:
    """Why the version may become champion.

    Raises:
        GateError: it may not. A reviewer may overrule floors and comparisons that the review showed, but neither a merged model
            that answers otherwise than its adapter nor a comparison with a champion that came after the review.
    """
    evaluation = run.read(Evaluation)
    changed = champion not in (evaluation.champion_version, registered.version)
    verdict = _ask_again(run, client, registered.name, champion) if changed else evaluation.verdict
    overruled = approval is not None and not changed and gate.parity_holds(evaluation.parity)
    if not verdict.passed and not overruled:
        client.set_model_version_tag(registered.name, str(registered.version), PROMOTION_TAG, "refused by the gate")
        checks = "".join(f"\n  {reason}" for reason in verdict.reasons)
        remedy = (
            "clear evaluate to compare with the present champion" if changed else "look at evaluate's report, then change data or recipe"
        )
        raise GateError(f"{registered.name} version {registered.version}", "the gate refused it", "every check to hold", remedy + checks)
    against = [reason for reason in verdict.reasons if reason.startswith(gate.REFUSED)]
    if approval is None:
        return "; ".join(verdict.reasons)
    return (approval.reason or "no reason given") + (f" (against the gate: {'; '.join(against)})" if against else "")


def _ask_again(run: Run, client: "MlflowClient", name: str, champion: int | None) -> Verdict:
    """The gate's verdict against a champion that `evaluate` did not meet, by its own scores on the same data version."""
    evaluation = run.read(Evaluation)
    rival = None
    if champion is not None:
        tags = client.get_model_version(name, str(champion)).tags
        if tags.get(DATA_HASH_TAG) == run.read(DatasetVersion).data_hash and SCORES_TAG in tags:
            scores = {metric: Score(value, value, value) for metric, value in json.loads(tags[SCORES_TAG]).items()}
            rival = gate.Champion(champion, scores)
        else:
            rival = gate.Champion(champion, None, "it became champion after evaluate, and its scores are not of this data version")
    seen = gate.Evidence(evaluation.tuned, evaluation.base, evaluation.majority, evaluation.parity, rival, evaluation.quantized)
    return gate.verdict(run.recipe.gate, seen)


def _set_champion_alias(client: "MlflowClient", registered: RegisteredVersion, champion: int | None, *, by: str, reason: str) -> int | None:
    """Move the alias, with who, when, why and whom it replaces in the tags; returns the predecessor.

    The tags come before the alias: a promotion that was killed in between still knows its predecessor.
    """
    name, version = registered.name, str(registered.version)
    tags = client.get_model_version(name, version).tags
    if champion != registered.version or "promoted_at" not in tags:
        tags = {
            PROMOTION_TAG: "promoted",
            "promoted_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "promoted_by": by,
            "promotion_reason": reason,
            "predecessor": str(champion) if champion not in (None, registered.version) else "none",
        }
        for key, value in tags.items():
            client.set_model_version_tag(name, version, key, value)
    client.set_registered_model_alias(name, ALIAS, version)
    model = client.get_model_version(name, version)
    if "superseded_by" in model.tags:  # a former champion is back
        client.delete_model_version_tag(name, version, "superseded_by")
    if CHALLENGER in model.aliases:
        client.delete_registered_model_alias(name, CHALLENGER)
    if tags["predecessor"] == "none":
        return None
    client.set_model_version_tag(name, tags["predecessor"], "superseded_by", version)
    return int(tags["predecessor"])
