"""The container engine at hand: Docker where its daemon answers, else podman; on a machine without systemd with settings of its own."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tasks.settings import CHECKOUT

STORE = "LORAFLOW_IMAGE_STORE"
"""Environment variable: folder that podman keeps images in; default: `.loraflow/images` in the checkout."""

CONFINED = (
    "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "512", "--network", "none",
)  # fmt: skip
"""How every container of the tests runs: nothing of its file system to write to, no capability, and none to be had."""

PODMAN = """\
[containers]
netns = "host"
log_driver = "k8s-file"
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
[network]
network_backend = "netavark"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
STORAGE = '[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'


class Engine:
    """Docker or podman by their common commands.

    Attributes:
        name: which of the two.
        env: environment of its commands.
    """

    def __init__(self, name: str, env: dict[str, str]) -> None:
        self.name, self.env = name, env

    def call(self, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """A command of the engine, whatever comes of it."""
        return subprocess.run([self.name, *arguments], env=self.env, capture_output=True, text=True, timeout=timeout, cwd=CHECKOUT)

    def ask(self, *arguments: str, timeout: float = 600) -> str:
        """What a command prints; its failure is one here."""
        done = self.call(*arguments, timeout=timeout)
        assert done.returncode == 0, f"{self.name} {' '.join(arguments)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout.strip()

    def has(self, image: str) -> bool:
        """Whether an image is there, or to be pulled."""
        if self.call("image", "inspect", image).returncode == 0:
            return True
        return self.call("pull", "--quiet", image, timeout=900).returncode == 0

    def build(self, dockerfile: str, tag: str, args: dict[str, str], mounts: Sequence[str] = ()) -> float:
        """Build an image from the checkout; the seconds that it took."""
        command = ["build", "--file", f"docker/{dockerfile}", "--tag", tag]
        command += [text for key, value in args.items() for text in ("--build-arg", f"{key}={value}")]
        if self.name == "podman":
            command += ["--format", "docker", "--layers", "--isolation", "chroot", "--pull-never"]
            command += [text for mount in mounts for text in ("--volume", mount)]
        began = time.monotonic()
        self.ask(*command, ".", timeout=3600)
        return time.monotonic() - began

    def run(self, image: str, *command: str, options: Sequence[str] = (), timeout: float = 900) -> str:
        """What a command prints in a fresh, confined container that goes afterwards."""
        return self.ask("run", "--rm", *CONFINED, *options, image, *command, timeout=timeout)

    def megabytes(self, image: str) -> int:
        """Size of an image with its base."""
        return round(int(self.inspect(image)["Size"]) / 1e6)

    def inspect(self, image: str) -> dict[str, object]:
        """What the engine knows of an image."""
        return dict(json.loads(self.ask("image", "inspect", image))[0])


def find() -> Engine:
    """The engine at hand; without one the test is skipped."""
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        return Engine("docker", dict(os.environ))
    if not shutil.which("podman"):
        pytest.skip("neither a Docker daemon nor podman is here (on Debian: apt-get install podman buildah runc catatonit debootstrap)")
    env = dict(os.environ)
    if os.getuid() == 0 and not Path("/run/systemd/system").exists():
        env |= _settings(Path(os.environ.get(STORE) or CHECKOUT / ".loraflow" / "images").absolute())
    return Engine("podman", env)


def _settings(folder: Path) -> dict[str, str]:
    """Settings for podman where there is no systemd, which its own rely on."""
    folder.mkdir(parents=True, exist_ok=True)
    runtime = next((f'runtime = "{name}"\n' for name in ("runc", "crun") if shutil.which(name)), "")
    (folder / "containers.conf").write_text(PODMAN + runtime, encoding="utf-8")
    (folder / "storage.conf").write_text(STORAGE.format(folder=folder), encoding="utf-8")
    return {"CONTAINERS_CONF": str(folder / "containers.conf"), "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf")}
