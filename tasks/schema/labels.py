"""What a recipe may say of its labels: the classes, and the rule that gives a row its own. Knows nobody."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from tasks.errors import explain
from tasks.schema.section import Section


class Threshold(Section):
    """Two labels from a number."""

    by: Literal["threshold"] = Field(description="`threshold`: labels by a number.")
    threshold: float = Field(description="Where the classes part.")
    at_or_above: str = Field(description="Label of rows with a value at or above the threshold.")
    below: str = Field(description="Label of the other rows.")

    def labels(self) -> tuple[str, ...]:
        """The labels that it can give."""
        return (self.at_or_above, self.below)


class MarkedColumns(Section):
    """A column for each label, with 1 or 0."""

    by: Literal["columns"] = Field(description="`columns`: labels by a column each.")
    columns: dict[str, str] = Field(min_length=1, description="Label to the column that holds 1 or 0 for it.")
    none: str | None = Field(None, description="Label of rows with none of these; without one they are left out.")

    def labels(self) -> tuple[str, ...]:
        """The labels that it can give."""
        return (*self.columns, *([self.none] if self.none is not None else []))


class Indexes(Section):
    """A list of indexes in the label column."""

    by: Literal["indexes"] = Field(description="`indexes`: labels by a list of indexes.")
    indexes: dict[str, int] = Field(min_length=1, description="Label to its index; other indexes say nothing.")
    separator: str = Field(",", min_length=1, description="What stands between two indexes.")

    def labels(self) -> tuple[str, ...]:
        """The labels that it can give."""
        return tuple(self.indexes)


class OtherColumn(Section):
    """A column that says what the opening does not."""

    column: str = Field(description="The column.")
    values: dict[str, str] = Field(min_length=1, description="What stands there to its label.")


class Opening(Section):
    """The words that the label column opens with."""

    by: Literal["opening"] = Field(description="`opening`: labels by the opening words.")
    opening: dict[str, tuple[str, ...]] = Field(
        min_length=1, description="Label to the words, one of which opens the text; case does not count, nor does white space before."
    )
    otherwise: OtherColumn | None = Field(None, description="What gives the other rows their label; without it they are left out.")

    def labels(self) -> tuple[str, ...]:
        """The labels that it can give."""
        return (*self.opening, *(self.otherwise.values.values() if self.otherwise else ()))


LabelRule = Annotated[Threshold | MarkedColumns | Indexes | Opening, Field(discriminator="by")]


class Labels(Section):
    """The classes and the rule that gives each row its class. Kinds without labels leave the section out."""

    names: tuple[str, ...] = Field((), description="The classes; their order is their index.")
    positive: str | None = Field(None, description="With two classes: the one that f1 and roc_auc count as found.")
    rule: LabelRule | None = Field(None, description="How a row gets its label; without a rule the label column holds the class itself.")

    def _problems(self) -> Iterator[str]:
        if len(self.names) == 1:
            yield explain(f"names is {list(self.names)}", "at least two labels, or none", "add the others")
        if len(set(self.names)) != len(self.names):
            yield explain(f"names {list(self.names)} repeat a label", "distinct labels", "remove the copy")
        rule = self.rule.labels() if self.rule else ()
        for name in (*rule, *([self.positive] if self.positive is not None else [])):
            if name not in self.names:
                yield explain(f"{name!r} is not among the names {list(self.names)}", fix="use one of them")
        if isinstance(self.rule, Threshold) and len(self.names) != 2:
            yield explain(f"{len(self.names)} names with a threshold rule", "2", "a threshold parts two classes")
        if rule and (without := [name for name in self.names if name not in rule]):
            yield explain(f"no row can be {without[0]!r} by the rule", "a place in it for each name", "add it or remove the name")
        if len(self.names) == 2 and self.positive is None:
            yield explain("positive is missing", "one of two names", "say which class f1 counts as found")
        if len(self.names) > 2 and self.positive is not None:
            yield explain(f"positive is given with {len(self.names)} names", "two names", "remove it")

    def columns(self) -> tuple[str, ...]:
        """The columns that the rule reads besides the label column."""
        if isinstance(self.rule, MarkedColumns):
            return tuple(self.rule.columns.values())
        return (self.rule.otherwise.column,) if isinstance(self.rule, Opening) and self.rule.otherwise else ()
