"""A step as a pod: the task makes it, is deferred while it runs, and comes back to read what became of it.

Every step is deferred, short ones too: any pod may wait an hour for a node, and a worker has better to do. Success is the manifest,
whatever was seen of the pod. What keeps a pod from being doubled or killed by a death on Airflow's side is its name (`pods.py`): the
API refuses a second one, and a later try finds the first.
"""

import time
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.settings import pod_mutation_hook
from kubernetes.client import ApiException

from dags.operators import retries
from dags.operators.mlflow_link import MlflowLink, links_of
from dags.operators.start import generation_of, run_of
from dags.operators.step_log import LogPosition, timestamp
from dags.pods import connection, outcome, spec
from dags.pods.api import PodApi
from dags.pods.outcome import Action, PodLimits, PodOutcome
from dags.pods.spec import CONTAINER, Json, Work
from dags.pods.trigger import PodWatch
from tasks.contracts import Plan
from tasks.errors import ContractError, ServiceError
from tasks.settings import settings
from tasks.workspace.run import Run

POLL_SECONDS = 5.0
QUOTA_SECONDS = 60.0
"""How long a task is parked before it asks again for a pod that was over quota."""
PODS_OF_A_TRY = 50
"""How many pods of one try the cluster may take away before the try counts as failed."""
MANIFEST_SECONDS = 60.0
"""How long a manifest may take to be seen here after its pod ended well: network file systems remember that a file was not there."""


class PodStep(KubernetesPodOperator):
    """A step as a pod of its own.

    Args:
        step: name of the step.
        recipe: name of the recipe.
        part: which part of its work the step is to do; empty: all of it.
    """

    def __init__(self, step: str, recipe: str, part: str = "", **kwargs: Any) -> None:
        where = settings()
        ours = {
            **connection.connection(),
            "namespace": where.namespace,
            "base_container_name": CONTAINER,
            "deferrable": True,
            "durable": True,
            "on_finish_action": "keep_pod",  # it is ended here, once it has been read
            "on_kill_action": "delete_pod",
            "poll_interval": POLL_SECONDS,
            "do_xcom_push": False,
        }
        super().__init__(**{**ours, **kwargs})
        self.step, self.recipe, self.part = step, recipe, part
        self._mine: Json | None = None
        self.operator_extra_links = links_of(step)

    def execute(self, context: Any) -> Any:
        """Make the step's pod, or find the one that an earlier try made, and wait for it."""
        with self._readable():
            run, work = self._work(context)
            if self._done(run, work):
                self.log.info("%s: its manifest is there, so it is done", self.step)
                if left := self._api.find(work.pod_name):  # by a worker that died before it could read it and end it
                    self._watch(work, left, {})
                return self.result(run)
            self._start(context, work, {})

    def watched(self, context: Any, event: Json) -> Any:
        """Go on after the watch: read what became of the pod, and act on it."""
        with self._readable():
            run, work = self._work(context)
            state, limits = event["state"], PodLimits.of(work, settings())
            if event["status"] == "unseen":
                where, found = f"{self.step}: pod {work.pod_name}", f"the cluster did not answer ({event['error']})"
                raise ServiceError(where, found, "an answer", "the pod goes on, and the next try finds it")
            if event["awaiting_deletion"]:
                self._start(context, work, state, force=event["status"] == "stuck")
            pod = self._api.find(work.pod_name, event["uid"])
            finding = outcome.read(pod, limits, datetime.now(UTC)) if pod else outcome.gone(event["last"], limits)
            if finding is None:  # it has come right meanwhile
                self._watch(work, pod, state, event["position"])
            return self._conclude(context, run, work, pod, finding, event)

    def ask_again(self, context: Any, event: Any, state: Json) -> None:
        """Ask again for a pod that was over quota."""
        with self._readable():
            self._start(context, self._work(context)[1], state)

    def on_kill(self) -> None:
        """End the pod: the task was marked or cleared by somebody, or its worker shuts down."""
        if self._mine:
            self.log.info("%s: ending pod %s", self.step, self._mine["metadata"]["name"])
            self._api.end(self._mine)

    def result(self, run: Run) -> Any:
        """What the task hands on to Airflow: nothing, but for `sweep_plan`."""

    @cached_property
    def hook(self) -> KubernetesHook:
        """The way to the cluster that the settings name."""
        return connection.hook()

    @cached_property
    def _api(self) -> PodApi:
        return PodApi(self.client, str(self.namespace))

    def _readable(self) -> AbstractContextManager[None]:
        return connection.explain_cluster_errors(self.step, self.log)

    def _work(self, context: Any) -> tuple[Run, Work]:
        run = run_of(self.recipe, context["run_id"])
        return run, Work(run.recipe, run.uri, run.id.partition("/")[2], self.step, generation_of(self, context), self.part)

    def _done(self, run: Run, work: Work, patience: float = 0.0) -> bool:
        """Whether the step's valid manifest is there, or comes to be seen."""
        until = time.monotonic() + patience
        while True:
            generation = run.generation(self.step, self.part)
            if generation is not None and generation >= work.generation:
                return True
            if time.monotonic() >= until:
                return False
            time.sleep(2)

    def _start(self, context: Any, work: Work, state: Json, force: bool = False) -> None:
        """See to it that the pod is there, and park the task until there is something to tell of it."""
        there = self._api.find(work.pod_name)
        if made := there is None:
            there = self._make(context, work, state)
        if there["metadata"].get("deletionTimestamp") or there["metadata"]["labels"].get("loraflow/generation") != str(work.generation):
            self._delete_first(work, there, state, force)
        self._mine = there
        name = f"pod {work.pod_name} in namespace {self.namespace}"
        if made:
            self.log.info("%s\n%s\n%s", name, " ".join(work.command), _asked(work))
        else:
            self.log.info("%s was made by an earlier try, and goes on", name)
        self._watch(work, there, state)

    def _delete_first(self, work: Work, there: Json, state: Json, force: bool) -> None:
        """Wait until a pod that bears the name, of a cleared or ended try, is gone."""
        if force:
            self.log.warning("pod %s does not end, so its node counts as lost: it is removed by force", work.pod_name)
        else:
            self.log.info("pod %s of an earlier try has to end first", work.pod_name)
        self._api.end(there, grace_seconds=0 if force else None)
        self._watch(work, there, self._one_more(state) if force else state, awaiting_deletion=True)

    def _make(self, context: Any, work: Work, state: Json) -> Json:
        """Ask for the pod; parks the task where a quota is used up."""
        asked = PodGenerator.deserialize_model_dict(spec.pod(work, settings()))
        asked.metadata.labels.update(self._get_ti_pod_labels(context))
        pod_mutation_hook(asked)
        try:
            made = self._api.make(asked)
        except ApiException as error:
            self._refused(work, state, error)
            raise
        self._persist_pod_identity_to_task_state_store(context, asked)  # for who looks at the task's state
        return made

    def _refused(self, work: Work, state: Json, error: ApiException) -> None:
        """End or park the task of which the API made no pod."""
        message = outcome.message_of(error.body, error.reason)
        finding = outcome.refused(error.status, message, self.step, str(self.namespace))
        since, minutes = state.get("over_quota_since", time.time()), work.recipe.pods.schedule_minutes
        if finding is None and time.time() - since < minutes * 60:
            self.log.info("%s: waiting for room in the quota (%s)", self.step, message)
            trigger = TimeDeltaTrigger(timedelta(seconds=QUOTA_SECONDS))
            self.defer(trigger=trigger, method_name="ask_again", kwargs={"state": {**state, "over_quota_since": since}})
        if finding is None:
            where, expected = f"{self.step}: a pod in namespace {self.namespace}", f"room within {minutes:g} minutes"
            raise ServiceError(where, f"over quota ({message})", expected, f"look: kubectl -n {self.namespace} describe quota")
        retries.end(self.log, finding.exit_code, finding.words)

    def _watch(self, work: Work, pod: Json, state: Json, position: Json | None = None, awaiting_deletion: bool = False) -> None:
        """Park the task; `watched` goes on with it."""
        trigger = PodWatch(
            pod_name=work.pod_name,
            pod_namespace=self.namespace,
            uid=pod["metadata"]["uid"],
            limits=vars(PodLimits.of(work, settings())),
            awaiting_deletion=awaiting_deletion,
            position=position,
            state=state,
            kubernetes_conn_id=self.kubernetes_conn_id,
            in_cluster=self.in_cluster,
            poll_interval=self.poll_interval,
        )
        self.defer(trigger=trigger, method_name="watched")

    def _conclude(self, context: Any, run: Run, work: Work, pod: Json | None, finding: PodOutcome, event: Json) -> Any:
        """Act on what became of the pod."""
        last_words = self._api.rest_of_log(pod, LogPosition(**event["position"]), self._say) if pod else ""
        done = self._done(run, work, MANIFEST_SECONDS if finding.action is Action.DONE else 0.0)
        if pod and not done and not finding.own:
            for warning in self._api.warnings(pod):
                self.log.warning("%s", warning)
        if pod:
            self._api.end(pod)
        if last_words and (done or not finding.own):
            self.log.info("%s", last_words)
        if done:
            return self.result(run)
        if finding.action is Action.DONE:
            where, found = f"{run.uri}/{self.step}.json", "not there, though the step's pod ended well"
            raise ContractError(where, found, "its manifest", "let LORAFLOW_RUNS name the same place here and in the pod")
        if finding.action is Action.AGAIN:
            self.log.warning("%s", finding.words)
            self._start(context, work, self._one_more(event["state"]))
        if finding.action is Action.HALVE:
            run.note_out_of_memory(self.step, work.generation, self.part)
        retries.end(self.log, finding.exit_code, (finding.own and last_words) or finding.words)

    def _one_more(self, state: Json) -> Json:
        """What the watch carries on, with one more pod that was taken away."""
        taken = state.get("taken", 0) + 1
        if taken > PODS_OF_A_TRY:
            found = f"the cluster took {taken} of its pods away"
            raise ServiceError(self.step, found, "one that comes to its end", "look at the cluster's nodes and priorities")
        return {**state, "taken": taken}

    def _say(self, text: str, at: float) -> None:
        self.log.info("%s", text, timestamp=timestamp(at))


class PodPlan(PodStep):
    """The step `sweep_plan`; hands on the names of the trials, for Airflow to map."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "do_xcom_push": True})

    def result(self, run: Run) -> list[str]:
        """The manifest says which trials there are."""
        return run.read(Plan).parts


class PodTrial(PodStep):
    """The step `sweep_trial`; Airflow takes a mapped task's links from its class."""

    operator_extra_links = (MlflowLink(),)


def _asked(work: Work) -> str:
    return ", ".join(f"{name} {amount}" for name, amount in spec.resources(work).items())
