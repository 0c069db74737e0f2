"""`push`: what was promoted and nothing else, whole or not at all, with a card whose snippets run."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.contracts import Adapter, DatasetVersion, MergedModel, Publication
from tasks.errors import ContractError, ServiceError, Skip
from tasks.settings import CHECKOUT, quiet_environment
from tasks.workspace.files import write_atomically
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import evaluated
from tests.support.hub_server import TOKEN, HubState, hub_server

pytestmark = pytest.mark.trains


@pytest.fixture
def promoted(trained: Run) -> Run:
    return evaluated.promote(trained)


def do(run: Run, generation: int = 0) -> Publication:
    found = perform("push", run, generation)
    assert isinstance(found, Publication)
    return found


def command(run: Run, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """The step as the DAG runs it."""
    clean = {key: value for key, value in quiet_environment().items() if not key.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-m", "tasks", "push", "--run", str(run.folder)],
        cwd=CHECKOUT, env={**clean, **environment}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_holds_both_repositories(promoted: Run, home: Path) -> None:
    found = do(promoted)
    adapter, model = home / "hub/loraflow/tiny-lora", home / "hub/loraflow/tiny"
    assert found == Publication(str(adapter), str(model), str(model / "README.md"))
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} == set(tree(adapter))
    assert {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "README.md"} <= set(tree(model))
    merged = promoted.path(promoted.read(MergedModel).path)
    assert (model / "model.safetensors").samefile(merged / "model.safetensors")
    modes = {path.stat().st_mode for folder in (adapter, model) for path in folder.iterdir()}
    assert len(modes) == 1, "weights are readable to whoever may read the rest"
    assert sorted(path.name for path in model.parent.iterdir() if path.is_dir()) == ["tiny", "tiny-lora"]
    assert not list(promoted.folder.glob("push/*/*"))


def test_no_path_of_this_machine_and_no_text_of_the_data_is_published(promoted: Run, home: Path) -> None:
    import pyarrow.parquet as pq

    own = promoted.path(promoted.read(Adapter).path) / "adapter_config.json"
    before = own.read_bytes()
    do(promoted)
    texts = [
        text
        for part in promoted.read(DatasetVersion).parts.values()
        for text in pq.read_table(promoted.path(part.path))["text"].to_pylist()
    ]
    for name, content in tree(home / "hub").items():
        for secret in (str(home), "/secret/place", str(home.parent), "/tiny-gemma"):
            assert secret.encode() not in content, name
        if not name.endswith((".safetensors", "tokenizer.json")):
            assert not [text for text in texts if text.encode() in content], name
    assert (
        json.loads((home / "hub/loraflow/tiny-lora/adapter_config.json").read_text())["base_model_name_or_path"]
        == "local folder tiny-gemma"
    )
    assert own.read_bytes() == before  # the run's own adapter still finds its base


def test_an_older_publication_is_replaced_whole(promoted: Run, home: Path) -> None:
    do(promoted)
    target = home / "hub/loraflow/tiny"
    (target / "shard-of-an-older-model.safetensors").write_text("old")
    first = tree(target)
    do(promoted, generation=1)
    assert tree(target) == {name: data for name, data in first.items() if not name.startswith("shard")}


KILL = """
import os, pathlib, signal, sys
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
real, calls = pathlib.Path.rename, []
def killed(self, target):
    if {self.name, target.name}.isdisjoint({".tiny.old", ".tiny.new"}):
        return real(self, target)
    calls.append(target)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, target)
pathlib.Path.rename = killed
perform("push", Run(pathlib.Path(sys.argv[1])), generation=1)
"""


@pytest.mark.parametrize("rename", [1, 2])
def test_a_killed_push_ends_as_an_undisturbed_one(promoted: Run, home: Path, rename: int) -> None:
    do(promoted)
    target = home / "hub/loraflow/tiny"
    expected = tree(target)
    done = subprocess.run(
        [sys.executable, "-c", KILL, str(promoted.folder), str(rename)],
        env={**quiet_environment(), "PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    whole = target if rename == 1 else target.with_name(".tiny.old")
    assert tree(whole) == expected
    do(promoted, generation=1)
    assert tree(target) == expected and sorted(path.name for path in target.parent.iterdir() if path.is_dir()) == ["tiny", "tiny-lora"]


def test_what_was_not_promoted_is_not_published(promoted: Run, home: Path) -> None:
    evaluated.crown(promoted, promoted=False)
    with pytest.raises(Skip, match=r"^tiny/test: version 2 was not promoted \(.*\), so nothing is published\. Fix: to answer anew,"):
        do(promoted)
    assert not (home / "hub").exists()


def test_push_off_publishes_nothing(promoted: Run, home: Path) -> None:
    recipe = promoted.recipe.model_copy(update={"run": promoted.recipe.run.model_copy(update={"push": False})})
    write_atomically(promoted.folder / "recipe.yaml", recipe.dump())
    with pytest.raises(
        Skip, match=r"^tiny/test: run.push is off, so nothing is published\. Fix: to publish, start a run with run.push true"
    ):
        do(Run(promoted.folder))
    assert not (home / "hub").exists()


def test_a_model_merged_after_the_promotion_is_not_published(promoted: Run, home: Path) -> None:
    merged = promoted.read(MergedModel)
    promoted.write(MergedModel(merged.path, merged.dtype, merged.merged_weights + 1))
    with pytest.raises(
        ContractError, match=r"register.json: made of earlier results \(expected: of this run's present ones\)\. Fix: run register again"
    ):
        do(promoted)
    assert not (home / "hub").exists()


def test_a_hub_setting_that_is_neither(promoted: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_HUB", "huggingface")
    with pytest.raises(ContractError, match=r"LORAFLOW_HUB: is 'huggingface' \(expected: folder:PATH or hub:NAMESPACE\)\. Fix: set it so"):
        do(promoted)


def test_a_folder_that_cannot_be_written(promoted: Run, home: Path) -> None:
    (home / "hub").write_text("a file")
    with pytest.raises(
        ServiceError, match=r"cannot be written \(.*\) \(expected: a writable folder with room\)\. Fix: mend that, then retry"
    ):
        do(promoted)


@pytest.fixture
def server() -> Iterator[HubState]:
    with hub_server() as state:
        yield state


@pytest.fixture
def to_hub(server: HubState, home: Path) -> dict[str, str]:
    return {
        "LORAFLOW_HUB": "hub:team",
        "HF_ENDPOINT": server.url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(home / "hf"),
    }


def test_the_real_client_publishes_to_a_hub(promoted: Run, server: HubState, to_hub: dict[str, str]) -> None:
    done = command(promoted, {**to_hub, "HF_TOKEN": f"{TOKEN}\n"})  # as a Kubernetes secret made from a file
    assert done.returncode == 0, done.stderr
    found = Run(promoted.folder).read(Publication)
    assert found.model == f"{server.url}/team/tiny/tree/{1:040x}"
    assert found.model_card == f"{server.url}/team/tiny/blob/{1:040x}/README.md"
    merged = promoted.path(promoted.read(MergedModel).path)
    model, adapter = server.repositories["team/tiny"], server.repositories["team/tiny-lora"]
    assert model.private and adapter.private
    assert model.files["model.safetensors"] == (merged / "model.safetensors").read_bytes()
    assert set(model.files) == {path.name for path in merged.iterdir()} | {"README.md"}
    assert "adapter_model.safetensors" in adapter.files and any(request.startswith("PUT /lfs/") for request in server.requests)
    assert model.commits == ["tiny version 2, trained on data/tiny/v1"]
    assert TOKEN not in done.stdout + done.stderr


def test_a_second_push_to_a_hub_adds_no_commit_and_removes_what_is_left_over(
    promoted: Run, server: HubState, to_hub: dict[str, str]
) -> None:
    assert command(promoted, to_hub).returncode == 0
    expected = dict(server.repositories["team/tiny"].files)
    (promoted.folder / "push.json").unlink()
    assert command(promoted, to_hub).returncode == 0
    assert len(server.repositories["team/tiny"].commits) == 1
    server.repositories["team/tiny"].files["shard-of-an-older-model.safetensors"] = b"old"
    (promoted.folder / "push.json").unlink()
    assert command(promoted, to_hub).returncode == 0
    assert server.repositories["team/tiny"].files == expected


@pytest.mark.parametrize(
    ("path", "status", "code", "message"),
    [
        ("/api/repos/create", 403, 66, "Hub repository team/tiny-lora: refused ("),
        ("/commit/", 403, 66, "leave to write). Fix: look at HF_TOKEN's rights and the namespace"),
        ("/commit/", 500, 75, "not reached or broken off ("),
    ],
)
def test_a_hub_that_says_no(
    promoted: Run, server: HubState, to_hub: dict[str, str], path: str, status: int, code: int, message: str
) -> None:
    server.fail[path] = status
    done = command(promoted, to_hub)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert TOKEN not in done.stdout + done.stderr and not promoted.has(Publication)
    assert all(not repository.files for repository in server.repositories.values())


def test_a_hub_that_is_not_there(promoted: Run, to_hub: dict[str, str]) -> None:
    done = command(promoted, {**to_hub, "HF_ENDPOINT": "http://127.0.0.1:9"})
    assert done.returncode == 75 and "an answer). Fix: look at HF_ENDPOINT and the network, then retry" in done.stderr, done.stderr


def test_a_token_that_no_header_can_hold(promoted: Run, server: HubState, to_hub: dict[str, str]) -> None:
    done = command(promoted, {**to_hub, "HF_TOKEN": f"{TOKEN}\n{TOKEN}"})
    assert done.returncode == 78 and not server.requests, done.stderr
    assert "HF_TOKEN: holds a line end inside (expected: what an HTTP header can hold). Fix: copy the value again" in done.stderr
    assert TOKEN not in done.stdout + done.stderr


def test_a_hub_without_a_token(promoted: Run, to_hub: dict[str, str]) -> None:
    done = command(promoted, {**to_hub, "HF_TOKEN": ""})
    assert done.returncode == 66, done.stderr
    assert "HF_TOKEN: not set (expected: a token that may write to the Hub). Fix: set it, or publish to a folder" in done.stderr


def test_push_does_not_import_torch(promoted: Run) -> None:
    code = f"""
import sys
from pathlib import Path
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
perform("push", Run(Path({str(promoted.folder)!r})))
print([name for name in ("torch", "transformers", "peft", "mlflow", "pandas") if name in sys.modules])
"""
    assert evaluated.outside(code, CHECKOUT, PYTHONPATH=str(CHECKOUT)).splitlines()[-1] == "[]"
