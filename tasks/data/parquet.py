"""Parquet that comes out the same bit by bit wherever it is written: the data set's version is the hash of its files.

No compression (its output changes with the library's version), no statistics, no schema of Arrow's or pandas' own; what is left
of the writer in a file is pyarrow's version, which the requirements pin.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_A_GROUP = 100_000


def write(path: Path, numbers: tuple[str, Sequence[int]], texts: Mapping[str, Sequence[str]]) -> None:
    """Write one column of whole numbers (int64) and columns of text (string), none of them with empty cells."""
    import pyarrow as pa

    name, values = numbers
    schema = pa.schema([pa.field(name, pa.int64(), nullable=False), *(pa.field(key, pa.string(), nullable=False) for key in texts)])
    write_table(
        path, pa.table([pa.array(values, pa.int64()), *(pa.array(column, pa.string()) for column in texts.values())], schema=schema)
    )


def write_table(path: Path, table: "pa.Table") -> None:
    """Write a table of Arrow's."""
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table, path, version="2.6", data_page_version="1.0", compression="none", use_dictionary=False,
        write_statistics=False, store_schema=False, row_group_size=ROWS_A_GROUP,
    )  # fmt: skip


def read(path: Path) -> tuple[list[int], dict[str, list[str]]]:
    """The column of numbers, and the columns of text by name, of a file that `write` wrote."""
    import pyarrow.parquet as pq

    columns = pq.read_table(path).to_pydict()
    numbers: list[int] = columns.pop(next(iter(columns)))
    return numbers, columns
