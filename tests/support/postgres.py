"""A real Postgres for tests, on loopback with a password, from the programs that a distribution's package brings."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest

from tests.support.loopback import free_port

PROGRAMS = Path("/usr/lib/postgresql")
"""Where Debian keeps the server's programs, which are on nobody's PATH."""
ACCOUNT = "postgres"
"""The server refuses to run as root; its package brings this account."""
USER = "loraflow"
WAIT_SECONDS = 60.0


class Postgres:
    """A running server."""

    def __init__(self, programs: Path, port: int, password: str) -> None:
        self.port, self._programs, self._password = port, programs, password

    def database(self, name: str) -> str:
        """Create a database; its address."""
        connection = psycopg2.connect(self.address("postgres"))
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{name}"')
        connection.close()
        return self.address(name)

    def answers(self) -> bool:
        """Whether it takes connections."""
        try:
            psycopg2.connect(self.address("postgres")).close()
        except psycopg2.OperationalError:
            return False
        return True

    def dump(self, database: str) -> bytes:
        """Everything in a database, as statements."""
        return subprocess.run([str(self._programs / "pg_dump"), self.address(database)], check=True, capture_output=True).stdout

    def address(self, database: str) -> str:
        """Address of a database, as SQLAlchemy takes it."""
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{self.port}/{database}"


@contextmanager
def running(password: str = "") -> Iterator[Postgres]:
    """A server with an empty cluster of its own, gone with its data afterwards; without its programs the test is skipped.

    Args:
        password: of its user, letters and digits; without one, it is drawn.
    """
    programs = _programs()
    as_account = _as_account()
    folder = Path(tempfile.mkdtemp(prefix="loraflow-postgres-"))  # not below pytest's folder, which the account cannot enter
    try:
        if as_account:
            shutil.chown(folder, ACCOUNT, pwd.getpwnam(ACCOUNT).pw_gid)
        password = password or secrets.token_urlsafe(12)
        _initialise(programs, as_account, folder, password)
        port = free_port()
        options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off", "max_connections": 200}
        command = [*as_account, str(programs / "postgres"), "-D", str(folder / "data")]
        command += [text for name, value in options.items() for text in ("-c", f"{name}={value}")]
        log = folder / "log"
        with log.open("wb") as stream:
            server = subprocess.Popen(command, cwd=folder, stdout=stream, stderr=stream, start_new_session=True)
        found = Postgres(programs, port, password)
        try:
            deadline = time.monotonic() + WAIT_SECONDS
            while not found.answers():
                assert server.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield found
        finally:
            server.send_signal(signal.SIGINT)  # its fast shutdown: connections are cut, files are whole
            server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    found = [path.parent for path in PROGRAMS.glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda path: int(path.parent.name))
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    pytest.skip("Postgres is not installed (on Debian: apt-get install postgresql)")


def _as_account() -> list[str]:
    """How a command is put before the server's, so that it runs as the package's account where we are root."""
    if os.getuid() != 0:
        return []
    return ["setpriv", f"--reuid={ACCOUNT}", f"--regid={pwd.getpwnam(ACCOUNT).pw_gid}", "--clear-groups"]


def _initialise(programs: Path, as_account: list[str], folder: Path, password: str) -> None:
    """An empty cluster that asks for a password on loopback too."""
    secret = folder / "password"
    secret.write_text(password, encoding="utf-8")
    if as_account:
        shutil.chown(secret, ACCOUNT)
    command = [*as_account, str(programs / "initdb"), "-D", str(folder / "data"), "-U", USER, "--pwfile", str(secret)]
    command += ["--auth-host=scram-sha-256", "--auth-local=reject", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    secret.unlink()
