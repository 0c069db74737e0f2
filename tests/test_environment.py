"""`make setup`: which build of torch it installs, what it prints, and that no environment is ready that cannot import torch."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import environment
from tasks.settings import CHECKOUT
from tests.support.file_server import FileServer
from tests.support.package_index import Wheel, add_index, pytorch_index

THIS = f"cp{sys.version_info[0]}{sys.version_info[1]}"
LINUX = "linux_" + os.uname().machine
FITS = f"{THIS}-{THIS}-{LINUX}"
OTHER = f"cp39-cp39-{LINUX}"
LIBRARY = Wheel("nvidia-cudnn-cu13", "9.20.0.48")
CUDA = Wheel("torch", "2.13.0", FITS, ("nvidia-cudnn-cu13==9.20.0.48; sys_platform == 'linux'",), "import nvidia_cudnn_cu13")
"""Like PyPI's: it cannot be imported without its library."""
MISSING = "libcudnn.so.9: cannot open shared object file"
PROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "loraflow"
version = "0.1.0"
[tool.uv]
override-dependencies = ["nvidia-cudnn-cu13; sys_platform == 'never'"]
"""
ITSELF = Wheel("loraflow", "0.1.0")
BACKEND = f"""\
import shutil

def build_editable(folder, settings=None, metadata=None):
    shutil.copy("{ITSELF.file}", folder)
    return "{ITSELF.file}"
"""


def cpu(tag: str, source: str = "") -> Wheel:
    return Wheel("torch", "2.13.0+cpu", tag, source=source)


class Checkout:
    """A checkout whose lock pins torch alone, on a machine that reaches a small package index and not PyTorch's."""

    def __init__(self, folder: Path, index: str) -> None:
        self.folder = folder
        self.wheels = folder / "wheels"
        self.wheels.mkdir()
        for name in ("Makefile", "environment.py"):
            shutil.copyfile(CHECKOUT / name, folder / name)
        (folder / ".uv").symlink_to(CHECKOUT / ".uv")
        (folder / "pyproject.toml").write_text(PROJECT)
        (folder / "backend.py").write_text(BACKEND)
        ITSELF.write(folder)
        (folder / "requirements.lock").write_text(f"torch==2.13.0\n{LIBRARY.name}==9.20.0.48 ; sys_platform == 'never'\n")
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
        self.variables = {
            **kept,
            **nowhere,
            "HOME": str(folder),
            "PIP_FIND_LINKS": str(self.wheels),
            "TMPDIR": str(folder),  # below the project, whose overrides are not for set-up
            "UV_CACHE_DIR": str(folder / "cache"),
            "UV_DEFAULT_INDEX": f"{index}/simple",
        }

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["make", *arguments], cwd=self.folder, env=self.variables, capture_output=True, text=True, timeout=300)

    def setup(self) -> str:
        """A set-up that succeeds; what it prints."""
        done = self.make("setup", f"PYTHON={sys.executable}")
        assert done.returncode == 0 and self.complete.exists(), done.stdout + done.stderr
        return done.stdout

    @property
    def complete(self) -> Path:
        return self.folder / ".venv" / "complete"

    @property
    def installed(self) -> set[str]:
        found = self.folder.glob(".venv/lib/*/site-packages/*.dist-info")
        return {path.stem for path in found if not path.name.startswith("loraflow")}


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    with FileServer() as server:
        add_index(server, [CUDA, LIBRARY], {"torch": 500_000_000, LIBRARY.name: 2_400_000_000})
        yield Checkout(tmp_path, server.url)


@pytest.mark.parametrize("tag", [FITS, "py3-none-any", f"cp39-abi3-{LINUX}", f"cp39.{THIS}-cp39.{THIS}-{LINUX}"])
def test_a_wheel_of_the_folder_is_taken_when_its_tags_fit(checkout: Checkout, tag: str) -> None:
    cpu(tag).write(checkout.wheels)
    assert f"setup: installing torch==2.13.0+cpu from {checkout.wheels}\n" in checkout.setup()
    assert checkout.installed == {"torch-2.13.0+cpu"}


@pytest.mark.parametrize("tag", [OTHER, f"{THIS}-{THIS}-win_amd64", f"{THIS}-cp39-{LINUX}", None])
def test_the_package_index_s_build_comes_with_its_libraries_and_their_size_is_said_first(checkout: Checkout, tag: str | None) -> None:
    if tag:
        cpu(tag).write(checkout.wheels)
    first, second = checkout.setup().splitlines()
    assert first.startswith("setup: installing torch==2.13.0 from the package index, a CUDA build, ")
    assert "with the 1 packages it requires: up to 2.9 GB to download" in first
    assert f"no wheel in {checkout.wheels} fits" in first and "download.pytorch.org: " in first
    assert re.fullmatch(r"setup: \.venv is ready \(Python 3\.\d+, \S+\)", second)
    assert checkout.installed == {"torch-2.13.0", "nvidia_cudnn_cu13-9.20.0.48"}


def test_pytorch_s_index_comes_before_the_package_index(checkout: Checkout, tmp_path: Path) -> None:
    with pytorch_index(tmp_path, cpu(FITS)) as reached:
        checkout.variables |= reached
        assert "setup: installing torch==2.13.0+cpu from download.pytorch.org\n" in checkout.setup()
    assert checkout.installed == {"torch-2.13.0+cpu"}


def test_a_cuda_build_of_the_folder_comes_with_its_libraries(checkout: Checkout) -> None:
    Wheel(CUDA.name, "2.13.0+cu130", FITS, CUDA.requires, CUDA.source).write(checkout.wheels)
    said = checkout.setup()
    assert f"torch==2.13.0+cu130 from {checkout.wheels}, a CUDA build, with the 1 packages it requires: up to 2.4 GB" in said
    assert checkout.installed == {"torch-2.13.0+cu130", "nvidia_cudnn_cu13-9.20.0.48"}


def test_a_torch_that_cannot_be_imported_is_no_success_and_is_tried_again(checkout: Checkout) -> None:
    cpu(FITS, f"raise ImportError('{MISSING}')").write(checkout.wheels)
    for _ in range(2):
        done = checkout.make("setup", f"PYTHON={sys.executable}")
        assert done.returncode and "is ready" not in done.stdout and not checkout.complete.exists()
        assert MISSING in done.stderr and f"torch==2.13.0+cpu from {checkout.wheels}" in done.stderr and "Fix: " in done.stderr
    for wheel in checkout.wheels.iterdir():
        wheel.unlink()
    checkout.setup()


def test_another_build_replaces_the_one_that_is_installed(checkout: Checkout) -> None:
    checkout.setup()
    cpu(FITS).write(checkout.wheels)
    (checkout.folder / "requirements.lock").touch()
    checkout.setup()
    assert checkout.installed == {"torch-2.13.0+cpu"}


def test_damaged_files_of_torch_are_replaced(checkout: Checkout) -> None:
    checkout.setup()
    (module,) = checkout.folder.glob(".venv/lib/*/site-packages/torch.py")
    module.unlink()
    (checkout.folder / "requirements.lock").touch()
    checkout.setup()


def test_a_second_setup_asks_for_nothing(checkout: Checkout) -> None:
    checkout.setup()
    checkout.variables |= {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple"}
    before = checkout.complete.stat().st_mtime_ns
    assert checkout.setup() == ""
    assert checkout.complete.stat().st_mtime_ns == before


def test_an_environment_of_another_python_is_replaced_where_a_python_is_named(checkout: Checkout) -> None:
    checkout.setup()
    config = checkout.folder / ".venv" / "pyvenv.cfg"
    config.write_text(re.sub(r"(?m)^version_info = .*", "version_info = 3.8.1", config.read_text()))
    (checkout.folder / ".venv" / "left").touch()
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert f"setup: replacing .venv, made with Python 3.8, by one with {version}\n" in checkout.setup()
    assert environment.python_of(checkout.folder / ".venv") == version
    assert not (checkout.folder / ".venv" / "left").exists()


def test_an_environment_whose_interpreter_is_gone_is_replaced(checkout: Checkout) -> None:
    checkout.setup()
    for name in ("python", "python3"):
        (checkout.folder / ".venv" / "bin" / name).unlink(missing_ok=True)
        (checkout.folder / ".venv" / "bin" / name).symlink_to(checkout.folder / "gone")
    assert "made with Python that is gone" in checkout.setup()


def test_an_environment_keeps_its_python_where_none_is_named(checkout: Checkout) -> None:
    checkout.setup()
    said = checkout.make("--dry-run", "setup").stdout
    assert said == ".venv/bin/python environment.py .venv\n"


def test_a_python_that_is_too_old_reads_the_script_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    ast.parse((CHECKOUT / "environment.py").read_text(), feature_version=(3, 8))
    monkeypatch.setattr(environment.sys, "version_info", (3, 10, 2, "final", 0))
    with pytest.raises(SystemExit, match=r"this is Python 3\.10 \(expected: 3\.11 or newer\)\. Fix: .*make setup PYTHON="):
        environment.main(Path("unused"))


@pytest.mark.parametrize("where", ["variable", "home"])
def test_folders_of_wheels_are_those_of_pip(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    if where == "variable":
        monkeypatch.setenv("PIP_FIND_LINKS", "/one https://two.example/wheels")
    else:
        (tmp_path / ".config" / "pip").mkdir(parents=True)
        (tmp_path / ".config" / "pip" / "pip.conf").write_text("[global]\nfind-links =\n  /one\n  https://two.example/wheels\n")
    assert environment.find_links() == ["/one", "https://two.example/wheels"]


def test_what_the_lock_leaves_out_is_not_taken_for_locked() -> None:
    names = environment.locked_names(environment.LOCK.read_text())
    assert {"torch", "sympy", "numpy", "nvidia-ml-py"} <= names
    assert not {"triton", "cuda-toolkit", "cuda-pathfinder", "nvidia-cudnn-cu13", "nvidia-cublas"} & names
