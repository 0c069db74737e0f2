"""What can go wrong, and whether a retry mends it.

Every message reads `where: what is wrong (expected: ...). Fix: what to do`, built by `explain`. The exit code is what the DAG sees
of a step that ended: it retries where `retryable` says so, and after a bug.
"""

from typing import Any, ClassVar

from tasks.secrets.redaction import without_secrets


def explain(wrong: str, expected: str = "", fix: str = "") -> str:
    """What is wrong, what is expected, and what to do, as every message has it."""
    return wrong + (f" (expected: {expected})" if expected else "") + (f". Fix: {fix}" if fix else "")


class LoraflowError(Exception):
    """A fault with a place, a finding, an expectation and a remedy.

    Args:
        where: the file, key, step, row or service at fault.
        found: what was there.
        expected: what should have been there.
        remedy: what the reader does next.
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, where: str, found: str, expected: str = "", remedy: str = "") -> None:
        # Here and not where it is shown: an error's text also goes into manifests, reports and tags.
        self.where, self.found, self.expected, self.remedy = map(without_secrets, (where, found, expected, remedy))
        super().__init__(f"{self.where}: {explain(self.found, self.expected, self.remedy)}")

    def __reduce__(self) -> tuple[Any, ...]:
        """A fault may cross from one process to another."""
        return _again, (type(self), self.args, self.__dict__)


class RecipeError(LoraflowError):
    """The recipe, or what a user typed into the trigger form, cannot be run."""

    exit_code = 64


class DataError(LoraflowError):
    """The data are not what the recipe promises."""

    exit_code = 65


class ContractError(LoraflowError):
    """A manifest, model or file handed from one step to the next is missing or does not fit."""

    exit_code = 66


class GateError(LoraflowError):
    """The challenger may not become the champion."""

    exit_code = 67


class SettingsError(LoraflowError):
    """A setting of this installation cannot be run with, or the cluster refuses what it leads to."""

    exit_code = 78


class PreflightError(LoraflowError):
    """Something that the run will need is not as it must be, and no waiting mends it."""

    exit_code = 68


class ServiceError(LoraflowError):
    """Something outside was not to be had (network, tracking server, disk, lock); a retry may find it."""

    exit_code = 75
    retryable = True


class OutOfMemoryError(LoraflowError):
    """A batch did not fit into the GPU's memory or the machine's; the retry takes half of it."""

    exit_code = 71
    retryable = True


class InterruptedRunError(LoraflowError):
    """SIGTERM ended the step; a retry goes on from what is whole."""

    exit_code = 143
    retryable = True


class Skip(LoraflowError):
    """No fault: this run has nothing to do in this step, and says why."""

    exit_code = 99


class RecipeErrors(RecipeError):
    """All faults of one recipe in one report, a line each."""

    def __init__(self, errors: list[RecipeError]) -> None:
        self.errors = errors
        Exception.__init__(self, "\n".join(str(error) for error in errors))
        self.where, self.found, self.expected, self.remedy = "recipe", str(self), "", ""


BY_EXIT_CODE: dict[int, type[LoraflowError]] = {error.exit_code: error for error in LoraflowError.__subclasses__()}
"""Exit code to the error that it says; 1 is any bug's."""

FINAL_EXIT_CODES = frozenset(code for code, error in BY_EXIT_CODE.items() if not error.retryable and error is not Skip)
"""Exit codes of faults that a retry cannot mend."""


def _again(kind: type[LoraflowError], args: tuple[Any, ...], attributes: dict[str, Any]) -> LoraflowError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error
