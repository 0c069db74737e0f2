"""Use a home folder at another path: MLflow's database contains absolute paths of its artifacts."""

import sqlite3
import sys
from pathlib import Path


def move_artifacts(database: Path, made_at: str, now_at: str) -> None:
    """Replace a path in all texts of MLflow's SQLite database."""
    with sqlite3.connect(database) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for (column,) in connection.execute(f"SELECT name FROM pragma_table_info('{table}')").fetchall():
                found = f"typeof({column}) = 'text' AND instr({column}, ?)"
                connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE {found}", (made_at, now_at, made_at))
    if utils := sys.modules.get("mlflow.tracking._tracking_service.utils"):
        utils._artifact_repos_cache.clear()  # MLflow caches the artifact path by run id, and all copies have the same run
