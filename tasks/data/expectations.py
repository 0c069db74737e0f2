"""The recipe's expectations over parsed rows, judged by Great Expectations without leaving a file or asking the network.

How the columns look to an expectation: fields are text as in the file, and a field of nothing but white space is null. An
expectation about numbers (a mean, bounds or a value set given as numbers) sees its columns as numbers; what is there but is no
number breaks it. All expectations see all parsed rows, whatever the ones before said.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any

from tasks.data.read_file import ParsedFile, number
from tasks.errors import DataError, RecipeError
from tasks.schema.data import Expectation
from tasks.settings import TELEMETRY_OFF

if TYPE_CHECKING:
    import pandas as pd

COLUMN_KEYS = ("column", "column_A", "column_B", "column_list")
NUMBERS = re.compile(
    r"expect_column_(mean|median|stdev|sum|quantile_values|kl_divergence)_to_be_.*|expect_multicolumn_sum_to_equal"
    r"|expect_column_value_z_scores_.*|expect_column_values_to_(not_be_outliers|be_increasing|be_decreasing)"
    r"|expect_column_pair_values_a_to_be_greater_than_b"
)
"""Expectations that always read numbers."""
BOUNDED = re.compile(r"expect_column_(values|min|max)_to_be_between")
"""Expectations that read numbers where their bounds are numbers."""
DATABASE = ("query", "other_table", "unexpected_rows")


@dataclass(frozen=True)
class Rule:
    """An expectation that Great Expectations accepted."""

    expectation: Expectation
    gx: Any
    """Great Expectations' own object."""
    of_rows: bool
    """Whether it speaks of single rows, not of the whole table."""
    of_numbers: bool

    @cached_property
    def columns(self) -> list[str]:
        """The columns it speaks of."""
        names: list[str] = []
        for key in COLUMN_KEYS:
            value = self.expectation.arguments.get(key, [])
            names += [value] if isinstance(value, str) else list(value)
        return names


@dataclass(frozen=True)
class Outcome:
    """What became of one expectation."""

    rule: Rule
    kept: bool
    checked: int
    """Rows it looked at; fields that are null are not looked at, save by the expectations about nulls."""
    observed: str
    """The figure of an expectation about the table; empty otherwise, and where it would show what the file says."""
    failing_rows: dict[int, str] = field(repr=False)
    """Position of each row that breaks it, in the parsed rows, to the reason."""


def rules(expectations: Sequence[Expectation]) -> list[Rule]:
    """Have Great Expectations check the names and arguments.

    Raises:
        RecipeError: an expectation is unknown, cannot be used here, or has a wrong argument.
    """
    os.environ.update(TELEMETRY_OFF)  # read by Great Expectations on import
    from great_expectations.expectations import registry
    from great_expectations.expectations.expectation import ColumnMapExpectation, ColumnPairMapExpectation, MulticolumnMapExpectation

    known = sorted(registry.list_registered_expectation_implementations())
    found = []
    for index, expectation in enumerate(expectations):
        where, name, arguments = f"validate.expectations.{index}", expectation.expect, expectation.arguments
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise RecipeError(
                where, f"{name} is no expectation of Great Expectations", remedy=f"did you mean {near[0]}?" if near else "remove it"
            )
        if any(word in name for word in DATABASE):
            raise RecipeError(where, f"{name} asks a database", "an expectation over the file's rows", "remove it")
        kind = registry.get_expectation_impl(name)
        of_rows = issubclass(kind, (ColumnMapExpectation, ColumnPairMapExpectation, MulticolumnMapExpectation))
        if of_rows and expectation.severity == "reject" and "mostly" in arguments:
            raise RecipeError(
                where, "mostly is given with severity reject, which sets every failing row aside", "", "remove it, or set severity: stop"
            )
        found.append(Rule(expectation, _build(kind, arguments, where, name), of_rows, _of_numbers(name, arguments)))
    return found


def check(rules: Sequence[Rule], parsed: ParsedFile, where: str, advance: Callable[[], None] = lambda: None) -> list[Outcome]:
    """Judge the rows by every rule, in order.

    Args:
        rules: what `rules` returned.
        parsed: the rows; an outcome speaks of them by position.
        where: the file's name in error messages.
        advance: told when a rule is done.

    Raises:
        DataError: an expectation names a column that the file has not.
        RecipeError: Great Expectations cannot work with the expectation.
    """
    if not rules:
        return []
    import great_expectations as gx
    import pandas as pd
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    whole = context.data_sources.add_pandas("rows").add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")
    cells = [[value if value.strip() else None for value in row] for row in parsed.rows]
    texts = pd.DataFrame(cells, columns=pd.Index(parsed.columns), dtype=object)
    outcomes = []
    for index, rule in enumerate(rules):
        for column in rule.columns:
            if column not in parsed.columns and rule.expectation.expect != "expect_column_to_exist":
                raise DataError(
                    where, f"no column {column!r:.40}, which {rule.expectation.expect} names", "", f"correct validate.expectations.{index}"
                )
        frame, not_numbers = _as_numbers(texts, rule.columns) if rule.of_numbers else (texts, {})
        batch = whole.get_batch(batch_parameters={"dataframe": frame})
        outcomes.append(_outcome(rule, batch.validate(rule.gx, result_format="COMPLETE"), not_numbers, index))
        advance()
    return outcomes


def _build(kind: Any, arguments: dict[str, Any], where: str, name: str) -> Any:
    try:
        return kind(**arguments)
    except ValueError as error:  # pydantic's, of either version
        fault = error.errors()[0] if hasattr(error, "errors") else {"loc": (), "msg": str(error)}
        key = ".".join(str(part) for part in fault["loc"] if part != "__root__")
        near = get_close_matches(key, [*getattr(kind, "__fields__", {})], n=1)
        if "extra fields" in fault["msg"]:
            remedy = f"did you mean {near[0]}?" if near else "remove it"
            raise RecipeError(where, f"{key} is not an argument of {name}", remedy=remedy) from None
        raise RecipeError(where, f"{name}: {key}: {fault['msg']}" if key else f"{name}: {fault['msg']}", remedy="correct it") from None


def _of_numbers(name: str, arguments: dict[str, Any]) -> bool:
    values = [arguments.get("min_value"), arguments.get("max_value")] if BOUNDED.fullmatch(name) else arguments.get("value_set") or []
    return bool(NUMBERS.fullmatch(name)) or any(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _as_numbers(texts: "pd.DataFrame", columns: Sequence[str]) -> tuple["pd.DataFrame", dict[int, str]]:
    """The frame with columns as numbers, and the rows where something stands that is none, with the reason."""
    import pandas as pd

    frame, not_numbers = texts.copy(deep=False), {}
    for column in columns:
        values = [None if text is None else number(text) for text in texts[column]]
        for position, (text, value) in enumerate(zip(texts[column], values, strict=True)):
            if text is not None and value is None:
                not_numbers[position] = f"{column} is not a number"
        frame[column] = pd.Series(values, index=texts.index, dtype="float64")
    return frame, not_numbers


def _outcome(rule: Rule, answer: Any, not_numbers: dict[int, str], index: int) -> Outcome:
    result, name = answer.result, rule.expectation.expect
    if complaint := _complaint(answer.exception_info):
        raise RecipeError(f"validate.expectations.{index}", f"{name} cannot be checked ({complaint})", remedy="correct or remove it")
    if not rule.of_rows:
        return Outcome(rule, answer.success, 0, _figure(result.get("observed_value")), not_numbers)
    failing_rows = {position: rule.expectation.reason for position in result.get("unexpected_index_list") or []} | not_numbers
    checked = result["element_count"] - (result.get("missing_count") or 0) + len(not_numbers)
    return Outcome(rule, answer.success and not not_numbers, checked, "", failing_rows)


def _figure(observed: Any) -> str:
    """A number as text; nothing that the file says is shown."""
    return f"{observed:.6g}" if isinstance(observed, Real) else ""


def _complaint(info: Any) -> str:
    """The message of the exception that Great Expectations caught, in one line; empty where there was none."""
    parts = [info] if "raised_exception" in info else list(info.values())
    messages = [" ".join(str(part["exception_message"]).split()) for part in parts if part["raised_exception"]]
    return (messages[0] or "no message")[:200] if messages else ""
