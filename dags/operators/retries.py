"""How a fault ends an Airflow task: skipped, failed for good, or tried again; its log ends with one readable block.

A task ends by `SystemExit` with the fault's exit code, as the step's process does: Airflow logs that in one line, where an
exception would bury the message in a traceback of Airflow's own code.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from logging import Logger
from typing import Any

from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.log import mask_secret

from tasks.errors import FINAL_EXIT_CODES, LoraflowError, Skip
from tasks.secrets.redaction import unmistakable, without_secrets


class RetryWhatItMends(RetryPolicy):
    """No retry after an exit code that says that a retry mends nothing."""

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> RetryDecision:
        """Decide after a failed try; runs in the task's process."""
        if isinstance(exception, SystemExit) and exception.code in FINAL_EXIT_CODES:
            return RetryDecision.fail("a retry cannot mend this fault")
        return RetryDecision.default()


RETRIES = {
    "retries": 2,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=1),
    "retry_policy": RetryWhatItMends(),
}
"""`default_args` of every DAG."""


def end(log: Logger, exit_code: int, message: str) -> None:
    """End the running task as a step's exit code says; returns where the step ended well.

    Raises:
        AirflowSkipException: the step had nothing to do.
        SystemExit: it failed.
    """
    if exit_code == 0:
        return
    message = without_secrets(message)
    if exit_code == Skip.exit_code:
        raise AirflowSkipException(message)
    log.error("%s", message)
    raise SystemExit(exit_code)


@contextmanager
def explain_errors(log: Logger) -> Iterator[None]:
    """End the running task in the same way where the code inside raises one of our own errors."""
    mask_secret(sorted(unmistakable()))  # by Airflow itself, in what it logs past us: a bug's traceback
    try:
        yield
    except LoraflowError as error:
        end(log, error.exit_code, f"{type(error).__name__}\n{error}")
