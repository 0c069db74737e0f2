"""Base images where no registry answers: Debian's own packages under the name that the Dockerfiles ask for.

What this machine needs to reach its package indexes (certificates, pip's settings) goes into the stand-in and nowhere else: a
Dockerfile, a build argument or an image's environment would carry it on.
"""

import configparser
import hashlib
import os
import pwd
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.images.engine import Engine

PYTHON = ("python3", "python3-pip", "python3-venv", "ca-certificates", "netbase", "tzdata")
LABEL = "loraflow.stand-in"
SYSTEM = "/etc/ssl/certs/ca-certificates.crt"


def python_base(engine: Engine, name: str) -> bool:
    """See to it that a Python base image is there; whether it is a stand-in."""
    return _have(engine, name, PYTHON, _prepare_python)


def postgres(engine: Engine, name: str) -> bool:
    """See to it that the Postgres image is there; whether it is a stand-in, with the version of Debian."""
    change = ['ENTRYPOINT ["/usr/local/bin/start"]', "USER 999:999"]
    return _have(engine, name, ("postgresql", "netbase"), _prepare_postgres, change)


def _have(engine: Engine, name: str, packages: Sequence[str], prepare: Callable[[Path], None], changes: Sequence[str] = ()) -> bool:
    """See to it that an image is there; whether it is a stand-in. One that was made for other settings of pip is made anew."""
    made_for = hashlib.sha256(repr((packages, pip_settings())).encode()).hexdigest()[:12]
    if engine.has(name):
        config: Any = engine.inspect(name)["Config"]
        label = (config.get("Labels") or {}).get(LABEL)
        if label in (None, made_for):
            return label is not None
    _bootstrap(engine, name, packages, prepare, [f"LABEL {LABEL}={made_for}", *changes])
    return True


def _bootstrap(engine: Engine, name: str, packages: Sequence[str], prepare: Callable[[Path], None], changes: Sequence[str]) -> None:
    """An image of Debian's packages alone."""
    if os.getuid() != 0 or not shutil.which("debootstrap"):
        pytest.skip(f"{name} cannot be pulled, and a stand-in needs root and debootstrap")
    suite, mirror = _debian()
    with tempfile.TemporaryDirectory(prefix="loraflow-base-") as folder:
        root = Path(folder) / "root"
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", suite, str(root), mirror]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        _copy_apt_sources(root)
        prepare(root)
        tar = subprocess.Popen(["tar", "-C", str(root), "--numeric-owner", "-c", "."], stdout=subprocess.PIPE)
        change = [text for one in ('CMD ["bash"]', *changes) for text in ("--change", one)]
        subprocess.run([engine.name, "import", *change, "-", name], stdin=tar.stdout, env=engine.env, check=True, capture_output=True)
        assert tar.wait() == 0


def _debian() -> tuple[str, str]:
    """Suite and mirror of this machine, as apt has them."""
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)', Path("/etc/os-release").read_text(), re.M))
    for path in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        suite = release.get("VERSION_CODENAME", "")
        one_line = re.search(rf"^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+{suite}\s", text, re.M)
        stanza = re.search(rf"^URIs:\s*(\S+)(?:\n[^\n]+)*?\nSuites:[^\n]*\b{suite}\b(?!-)", text, re.M)
        if found := one_line or stanza:
            return suite, found[1]
    pytest.skip("a stand-in base needs a Debian with a mirror in its apt sources")


def _copy_apt_sources(root: Path) -> None:
    """Debian's sources as this machine has them: security updates too."""
    for path in (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d/debian.sources")):
        if path.exists():
            target = root / path.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for path in Path("/etc/apt/apt.conf.d").glob("*prox*"):
        shutil.copyfile(path, root / path.relative_to("/"))


def _prepare_python(root: Path) -> None:
    """Python as the official image has it: `python` and `pip` on the path, free to install; and this machine's way to its indexes."""
    for path in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        path.unlink()
    for name in ("python", "pip"):
        (root / "usr/local/bin" / name).symlink_to(f"/usr/bin/{name}3")
    own = Path("/usr/local/share/ca-certificates")
    for path in own.glob("*.crt") if own.is_dir() else ():
        shutil.copyfile(path, root / path.relative_to("/"))
    subprocess.run(["chroot", str(root), "update-ca-certificates"], check=True, capture_output=True)
    bundle = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    if bundle and Path(bundle).exists():
        shutil.copyfile(bundle, root / SYSTEM.lstrip("/"))
    _write_pip(root)


def pip_settings() -> dict[str, list[str]]:
    """What pip on this machine is told of indexes: option to values. As in the Makefile, the account's own settings count also
    where HOME leads elsewhere.
    """
    homes = ({}, {"HOME": pwd.getpwuid(os.getuid()).pw_dir})
    command = [sys.executable, "-m", "pip", "config", "list"]
    told = [subprocess.run(command, capture_output=True, text=True, env={**os.environ, **home}).stdout for home in homes]
    found: dict[str, list[str]] = {}
    for line in "".join(told).splitlines():
        key, _, value = line.partition("=")
        option = key.rpartition(".")[2]
        if option in ("index-url", "extra-index-url", "find-links"):
            for one in value.strip("'\"").replace("\\n", " ").split():
                if not one.startswith("file:") and one not in found.get(option, []):
                    found.setdefault(option, []).append(one)
    return found


def local_folders() -> list[str]:
    """Folders on this machine that pip takes packages from; the build has to see them."""
    paths = (Path(one.removeprefix("file://")) for values in pip_settings().values() for one in values)
    return sorted({str(path) for path in paths if path.is_absolute() and path.is_dir()})


def brings_torch() -> bool:
    """Whether one of those folders holds a build of torch, so that PyTorch's own index is not to be asked."""
    return any(path.name.startswith("torch-") for folder in local_folders() for path in Path(folder).glob("torch-*.whl"))


def _write_pip(root: Path) -> None:
    settings = pip_settings()
    config = configparser.RawConfigParser()
    given = {option: "\n".join(["", *values]) for option, values in settings.items()}
    config["global"] = {"cert": SYSTEM, "break-system-packages": "true", **given}
    with (root / "etc/pip.conf").open("w", encoding="utf-8") as stream:
        config.write(stream)
    lines = []
    if links := settings.get("find-links"):
        lines.append(f"find-links = {links!r}".replace("'", '"'))
    if index := settings.get("index-url"):
        lines.append(f'index-url = "{index[0]}"')
    folder = root / "etc/uv"
    folder.mkdir(exist_ok=True)
    (folder / "uv.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


START = """\
#!/bin/bash
# What the official image's entry point does: make the cluster and run the scripts once, then serve.
set -eu
export PATH=$(echo /usr/lib/postgresql/*/bin):$PATH PGDATA=/var/lib/postgresql/data/pgdata
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  trap 'rm -rf "$PGDATA"' ERR
  initdb --username=postgres --pwfile=<(echo "$POSTGRES_PASSWORD") --auth-local=trust ${POSTGRES_INITDB_ARGS:-} >/dev/null
  echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
  pg_ctl -w -s -o "-c listen_addresses=''" start
  for script in /docker-entrypoint-initdb.d/*.sql; do psql -v ON_ERROR_STOP=1 --no-password --username=postgres -f "$script"; done
  pg_ctl -w -s -m fast stop
fi
exec postgres -c listen_addresses='*'
"""


def _prepare_postgres(root: Path) -> None:
    """Its programs under user 999, and an entry point that heeds the same variables."""
    start = root / "usr/local/bin/start"
    start.write_text(START, encoding="utf-8")
    start.chmod(0o755)
    for programs in root.glob("usr/lib/postgresql/*/bin"):
        (root / "usr/local/bin/pg_isready").symlink_to(f"/{(programs / 'pg_isready').relative_to(root)}")
    shutil.rmtree(root / "var/lib/postgresql", ignore_errors=True)
    for folder in ("var/lib/postgresql/data", "var/run/postgresql"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        os.chown(root / folder, 999, 999)
        (root / folder).chmod(0o3777)
    passwd = root / "etc/passwd"
    lines = [line for line in passwd.read_text().splitlines() if not line.startswith("postgres:")]
    passwd.write_text("\n".join([*lines, "postgres:x:999:999::/var/lib/postgresql:/bin/bash", ""]))
