"""Each image, built from its unchanged Dockerfile, does in a confined container without network what it is for: `make test-images`."""

import json
import re
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.contracts import STEPS
from tasks.settings import CHECKOUT
from tests.images.conftest import IMAGES, Images
from tests.images.engine import CONFINED, Engine
from tests.support import tiny

pytestmark = [pytest.mark.trains, pytest.mark.timeout(7200)]

HEAVY = ("torch", "transformers", "peft", "mlflow", "dvc", "pandas", "great_expectations", "sklearn", "matplotlib", "pyarrow")
AIRFLOW_ROOM = (
    "--tmpfs",
    "/tmp",
    "--volume",
    "/opt/airflow/logs",
    "--env",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=sqlite:////tmp/airflow.db",
)
"""The volume has no name, so it goes with its container."""

WHO = """
import errno, json, os
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
def refused(path):
    try:
        open(path, "w").close()
    except OSError as error:
        return errno.errorcode[error.errno]
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(), "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "no_new_privileges": status["NoNewPrivs"].strip(), "root": refused("/loraflow"), "code": refused("/opt/venv/loraflow"),
}))
"""
INSTALLED = """
import importlib.metadata, json
print(json.dumps({found.metadata["Name"]: found.version for found in importlib.metadata.distributions()}))
"""


@pytest.fixture(params=sorted(IMAGES))
def image(request: pytest.FixtureRequest, images: Images) -> str:
    """Each image in turn."""
    return images(request.param)


def test_it_runs_as_nobody_in_particular_and_can_change_nothing(engine: Engine, image: str) -> None:
    who = json.loads(engine.run(image, "python", "-c", WHO))
    assert (who["uid"], who["gid"], set(who["groups"]) - {1000}) == (1000, 1000, set())
    assert who["capabilities"] == 0 and who["no_new_privileges"] == "1"
    assert who["root"] == "EROFS" and who["code"] == "EROFS"


def test_its_packages_are_those_of_the_lock(engine: Engine, image: str) -> None:
    lock = "".join((CHECKOUT / name).read_text() for name in ("requirements.lock", "docker/airflow.lock"))
    locked: dict[str, set[str]] = {}  # some in a version for each Python
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.M):
        locked.setdefault(_normal(name), set()).add(version)
    found = json.loads(engine.run(image, "python", "-c", INSTALLED))
    assert len(found) > 50
    found = {name: version.split("+")[0] if name == "torch" else version for name, version in found.items()}  # its build is the machine's
    assert not {name: version for name, version in found.items() if version not in locked.get(_normal(name), ())}


def test_it_says_what_it_was_built_from_and_keeps_no_secret(engine: Engine, image: str, commit: str) -> None:
    config: Any = engine.inspect(image)["Config"]
    assert config["Labels"]["org.opencontainers.image.revision"] == commit
    assert config["Labels"]["org.opencontainers.image.version"] == "0.1.0"
    assert config["User"] == "1000:1000" and config["Entrypoint"] == ["/usr/bin/tini", "--"]
    names = {entry.split("=")[0] for entry in config["Env"]}
    assert not [name for name in names if re.search("TOKEN|PASSWORD|SECRET|KEY|INDEX|PROXY|CERT", name)], names


def test_a_signal_ends_it_at_once(engine: Engine, image: str) -> None:
    with started(engine, image, "python", "-c", "import time; print('ready', flush=True); time.sleep(300)") as name:
        until(lambda: "ready" in engine.ask("logs", name), "its start")
        began = time.monotonic()
        engine.ask("stop", "--time", "60", name)
        assert time.monotonic() - began < 30
        state = json.loads(engine.ask("inspect", "--format", "{{json .State}}", name))
        assert state["ExitCode"] == 143  # SIGTERM reached Python, which does nothing about it; as the first process it would not have


def test_airflow_lists_the_dags_without_an_import_error(engine: Engine, images: Images) -> None:
    script = (
        "airflow db migrate >/tmp/log 2>&1 && airflow dag-processor --num-runs 1 >>/tmp/log 2>&1 || { tail -50 /tmp/log; exit 1; };"
        "airflow dags list-import-errors --output json 2>/dev/null; echo; echo ---; airflow dags list --output json 2>/dev/null"
    )
    told = engine.run(images("airflow"), "bash", "-c", script, options=AIRFLOW_ROOM, timeout=1800)
    errors, _, dags = told.partition("---")
    assert errors.splitlines()[-2:] == ["[]", ""], errors  # below what Airflow has to say of itself
    names = {dag["dag_id"] for dag in json.loads(dags.strip().splitlines()[-1])}
    recipes = {path.stem for path in (CHECKOUT / "tasks" / "recipes").glob("*.yaml")}
    assert recipes and {f"retrain_{name}" for name in recipes} <= names


def test_airflow_holds_nothing_that_steps_need(engine: Engine, images: Images) -> None:
    code = f"import importlib.util as u; print([name for name in {HEAVY!r} if u.find_spec(name)])"
    assert engine.run(images("airflow"), "python", "-c", code) == "[]"


@pytest.mark.parametrize("user", ["1000:1000", "50000:0"])
def test_airflow_has_what_the_helm_chart_calls(engine: Engine, images: Images, user: str) -> None:
    """Its probes call /entrypoint through sh, its containers bash; 50000 is the chart's own user, one that the image does not know."""
    options = ("--tmpfs", "/tmp", "--user", user)
    probe = engine.run(images("airflow"), "sh", "-c", "exec /entrypoint airflow version", options=options)
    assert probe.endswith("3.3.2")
    assert engine.run(images("airflow"), "bash", "-c", "exec airflow version", options=options).endswith("3.3.2")


def test_steps_take_a_tiny_recipe_from_its_file_to_a_published_model(engine: Engine, images: Images, tiny_input: Path) -> None:
    lines = ["set -e", "run=$(python -m tasks start /input/tiny.yaml --set run.promotion=auto)", 'echo "run $run"']
    lines += [f'python -m tasks {step} --run "$run" --generation 0' for step in STEPS]
    lines += ['echo; echo ---; cat "$run/evaluate.json"; echo; echo ---; cat "$run/push.json"; echo; echo ---; cat "$run/version.json"']
    options = ["--volume", f"{tiny_input}:/input:ro", "--volume", "/scratch", "--tmpfs", "/tmp", "--memory", "6g"]
    options += ["--env", "OMP_NUM_THREADS=1", "--env", "LORAFLOW_PROFILE=full"]
    told = engine.run(images("steps"), "bash", "-c", "\n".join(lines), options=options, timeout=3600)
    evaluation, publication, version = (json.loads(part)["output"] for part in told.split("---\n")[-3:])
    scores = {metric: round(score["value"], 3) for metric, score in evaluation["tuned"].items()}
    print("tiny recipe in the steps image:", scores)
    assert evaluation["verdict"]["passed"] and scores["macro_f1"] > 0.9
    assert version["tag"] == "data/tiny/v1" and publication["model"]


def test_mlflow_is_healthy_and_takes_artifacts_through_its_proxy(engine: Engine, images: Images) -> None:
    options = ("--volume", "/mlflow", "--tmpfs", "/tmp", "--env", "MLFLOW_SERVER_ALLOWED_HOSTS=mlflow.example:5000,127.0.0.1:*")
    with started(engine, images("mlflow"), options=options) as name:
        until(lambda: engine.call("exec", name, *healthcheck(engine, images("mlflow"))).returncode == 0, "its health", 300)
        if engine.name == "podman":
            engine.ask("healthcheck", "run", name)
        done = engine.ask("exec", "--env", "MLFLOW_TRACKING_URI=http://127.0.0.1:5000", name, "python", "-c", USE_MLFLOW)
        assert json.loads(done.splitlines()[-1]) == {"uri": "mlflow-artifacts", "back": "weights", "elsewhere": 403, "by_name": 200}


USE_MLFLOW = """
import json, pathlib, urllib.error, urllib.request
import mlflow
mlflow.set_experiment("tiny")
with mlflow.start_run() as run:
    mlflow.log_text("weights", "model/adapter.txt")
kept = list(pathlib.Path("/mlflow/artifacts").rglob("adapter.txt"))
assert len(kept) == 1, kept
back = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/model/adapter.txt")
def asked_as(host):
    request = urllib.request.Request("http://127.0.0.1:5000/api/2.0/mlflow/experiments/get?experiment_id=0", headers={"Host": host})
    try:
        return urllib.request.urlopen(request, timeout=30).status
    except urllib.error.HTTPError as error:
        return error.code
print()
print(json.dumps({"uri": run.info.artifact_uri.split(":")[0], "back": back,
                  "elsewhere": asked_as("elsewhere.example"), "by_name": asked_as("mlflow.example:5000")}))
"""


@pytest.fixture(scope="session")
def tiny_input(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base, its rows and its recipe, as a container sees them under /input."""
    folder = tmp_path_factory.mktemp("input")
    tiny.build_gemma(folder / "base")
    tiny.write_csv(folder / "tweets.csv", tiny.tweets(400))
    document = tiny.recipe_document(Path("/input/base"), Path("/input/tweets.csv"))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    for parent in list(folder.parents)[:3]:  # pytest's folders are its owner's alone
        subprocess.run(["chmod", "o+x", str(parent)], check=True)
    return folder


@contextmanager
def started(engine: Engine, image: str, *command: str, options: tuple[str, ...] = ()) -> Iterator[str]:
    """The name of a running container; it goes afterwards."""
    name = f"loraflow-test-{uuid.uuid4().hex[:8]}"
    engine.ask("run", "--detach", "--name", name, *CONFINED, *options, image, *command)
    try:
        yield name
    finally:
        print(engine.call("logs", name).stderr[-2000:])
        engine.call("rm", "--force", "--volumes", name)


def healthcheck(engine: Engine, image: str) -> list[str]:
    """The command of an image's HEALTHCHECK."""
    config: Any = engine.inspect(image)
    found = config.get("Healthcheck") or config["Config"]["Healthcheck"]
    kind, *command = found["Test"]
    assert kind == "CMD"
    return list(command)


def until(what: Any, expected: str, seconds: float = 120) -> None:
    """Wait for something to come to pass."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"not in {seconds:.0f} s: {expected}"
        time.sleep(0.5)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
