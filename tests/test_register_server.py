"""`register` over a real tracking server that keeps the artifacts itself."""

import dataclasses
import json
from pathlib import Path

import pytest

from tasks.contracts import Adapter, RegisteredVersion
from tasks.registry import tracking
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import evaluated

pytestmark = pytest.mark.trains

TEXTS = ["a lovely day", "the rude table again", "my street"]


def do(run: Run, generation: int = 0) -> RegisteredVersion:
    found = perform("register", run, generation)
    assert isinstance(found, RegisteredVersion)
    return found


def test_over_a_server_the_weights_travel_once_and_serve(
    trained: Run, mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAFLOW_MLFLOW_URI", mlflow_server)
    with tracking.tracked(trained) as tracked:
        trained.write(dataclasses.replace(trained.read(Adapter), tracked=tracked))
    evaluated.evaluate(trained)
    found = do(trained)
    assert not list(trained.folder.glob("register/*/*"))
    assert len(list((tmp_path / "served").rglob("model.safetensors"))) == 1
    assert do(trained, generation=1) == found and found.version == 1
    tracking.client().set_registered_model_alias("tiny", "champion", "1")
    served = json.loads(evaluated.outside(evaluated.PREDICT % TEXTS, tmp_path, MLFLOW_TRACKING_URI=mlflow_server).splitlines()[-1])
    assert served["columns"] == ["label", "score_negative", "score_neutral", "score_positive"]
    assert [sum(row[1:]) for row in served["rows"]] == pytest.approx([1.0] * len(TEXTS))
