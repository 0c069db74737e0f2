"""A data file and what `validate` found in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tasks.contracts import SourceFile
from tasks.data.expectations import Outcome
from tasks.data.read_file import ParsedFile, Reject
from tasks.schema.data import Table


@dataclass(frozen=True)
class CheckedFile:
    """Rows, expectations' results, and what follows for each row."""

    name: str
    """As error messages and rejects show it."""
    path: Path
    table: Table
    source: SourceFile
    parsed: ParsedFile
    outcomes: Sequence[Outcome]

    @property
    def read(self) -> int:
        """Rows of the file, readable or not."""
        return len(self.parsed.rows) + len(self.parsed.rejects)

    @cached_property
    def reasons(self) -> dict[int, str]:
        """Position of each readable row that is rejected to the first reason, in the recipe's order."""
        reasons: dict[int, str] = {}
        for outcome in self.outcomes:
            for position, reason in outcome.failing_rows.items():
                reasons.setdefault(position, reason)
        return reasons

    @cached_property
    def rejects(self) -> list[Reject]:
        """All rows that are set aside."""
        return [*self.parsed.rejects, *(Reject(self.parsed.places[position], reason) for position, reason in self.reasons.items())]

    @cached_property
    def valid(self) -> list[int]:
        """Positions of the rows that go on."""
        return [position for position in range(len(self.parsed.rows)) if position not in self.reasons]

    def columns(self, roles: Mapping[str, str]) -> dict[str, list[str]]:
        """Fields of the valid rows by role.

        Args:
            roles: what a column is for to the column.
        """
        at = {role: self.parsed.columns.index(column) for role, column in roles.items()}
        return {role: [self.parsed.rows[position][column] for position in self.valid] for role, column in at.items()}
