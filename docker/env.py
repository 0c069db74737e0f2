"""Draw the passwords and keys of compose.yaml into docker/.env, for nobody else to read: make compose-env.

One that is there stays: the databases were made with its passwords.
"""

import os
import secrets
import sys
from base64 import urlsafe_b64encode
from pathlib import Path

PLACE = Path(__file__).parent / ".env"
HEAD = "# Drawn by docker/env.py. What docker/compose.yaml offers may be set here too (docs/images.md).\n"


def drawn() -> dict[str, str]:
    """A fresh value for every secret; letters, digits, - and _ only, so that none needs quoting."""
    passwords = ("POSTGRES_PASSWORD", "AIRFLOW_PASSWORD", "MLFLOW_PASSWORD", "AIRFLOW_ADMIN_PASSWORD", "STORE_SECRET_KEY")
    return {
        **{name: secrets.token_hex(24) for name in passwords},
        "STORE_ACCESS_KEY": f"loraflow{secrets.token_hex(6)}",
        "AIRFLOW_FERNET_KEY": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW_SECRET_KEY": secrets.token_hex(32),
        "AIRFLOW_JWT_SECRET": secrets.token_hex(64),
    }


def main() -> None:
    """Write the file, readable by its owner alone."""
    try:
        file = os.open(PLACE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        sys.exit(f"{PLACE}: is there already, and the databases know its passwords; to begin anew, remove it and the volumes first")
    with os.fdopen(file, "w", encoding="utf-8") as stream:
        stream.write(HEAD + "".join(f"{name}={value}\n" for name, value in drawn().items()))
    print(f"{PLACE}: written. Airflow's user is admin, with AIRFLOW_ADMIN_PASSWORD as password.")


if __name__ == "__main__":
    main()
