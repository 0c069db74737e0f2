"""What compose.yaml does once before Airflow's servers start: Airflow's tables, its admin's password, the bucket.

Runs in the image of the scheduler. All of it is safe to do again, and brings an older installation up to date.
"""

import json
import os
import subprocess
import sys
from pathlib import Path


def migrate() -> None:
    """Make Airflow's tables, or bring them to this version."""
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True)


def write_passwords() -> None:
    """The login that Airflow's simple auth manager reads, for the API server alone."""
    place = Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"])
    fresh = place.with_name(f".{place.name}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.write(json.dumps({"admin": os.environ["AIRFLOW_ADMIN_PASSWORD"]}) + "\n")
    fresh.replace(place)


def make_bucket() -> None:
    """The bucket of MLflow's artifacts and the data versions."""
    from s3fs import S3FileSystem

    store, bucket = S3FileSystem(), os.environ["BUCKET"]
    if not store.exists(bucket):
        store.mkdir(bucket)


if __name__ == "__main__":
    migrate()
    write_passwords()
    make_bucket()
