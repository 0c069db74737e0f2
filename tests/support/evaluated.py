"""Hand-made manifests for the steps after `evaluate`, and Python run where loraflow is not installed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from tasks.contracts import Adapter, Evaluation, MergedModel, Parity, Promotion, RegisteredVersion, Score, Scores, ValidRows, Verdict
from tasks.settings import quiet_environment
from tasks.workspace.run import Run


def scores(macro_f1: float) -> Scores:
    """Two metrics, their intervals a hundredth to either side."""
    return {name: Score(value, value - 0.01, value + 0.01) for name, value in (("macro_f1", macro_f1), ("accuracy", macro_f1 + 0.02))}


def evaluation(macro_f1: float = 0.9, **changes: Any) -> Evaluation:
    """An evaluation whose gate passed."""
    fields: dict[str, Any] = {
        "rows": 60,
        "tuned": scores(macro_f1),
        "base": scores(0.3),
        "majority": scores(0.17),
        "champion": None,
        "champion_version": None,
        "parity": Parity(16, 16, 1e-6),
        "verdict": Verdict(True, (f"macro_f1 {macro_f1:.3f} >= 0.500 (floor)",)),
        "predictions": "evaluate/predictions.parquet",
        "figures": {},
        "report": "evaluate/report.html",
    }
    return Evaluation(**{**fields, **changes})


def evaluate(run: Run, macro_f1: float = 0.9, **changes: Any) -> Evaluation:
    """Write that evaluation into a run, reading before it what `evaluate` reads."""
    made = evaluation(macro_f1, **changes)
    run.write(made)
    return made


def refused(reason: str = "macro_f1 0.400 < 0.500 (floor)") -> Verdict:
    """A gate that says no."""
    return Verdict(False, (f"refused: {reason}", "no champion yet to compare with"))


def promote(run: Run) -> Run:
    """A run with validated rows whose version 2 replaced version 1."""
    run.write(ValidRows("rows.parquet", "rejects", "report.html", 500, 480, {"no text": 12, "not utf-8": 8}))
    evaluate(run, 0.8, champion=scores(0.7), champion_version=1)
    return crown(run)


def crown(run: Run, promoted: bool = True) -> Run:
    """Register the run's model as version 2 and promote it over version 1, each manifest reading what its step reads."""
    again = Run(run.folder)
    for contract in (Adapter, MergedModel, Evaluation):
        again.read(contract)
    tags = {"data": "data/tiny/v1", "data_hash": "0.dir", "torch": "2.13.0", "base_model": "folder:/secret/place", "code": "abc"}
    again.write(RegisteredVersion("tiny", 2, "models:/tiny/2", "", tags))
    again = Run(run.folder)
    again.read(RegisteredVersion)
    again.write(Promotion(promoted, "auto", 2, 1, "macro_f1 0.800 >= 0.500 (floor)"))
    return Run(run.folder)


NOT_INSTALLED = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "loraflow" not in getattr(finder, "__module__", "")]
"""


def outside(code: str, cwd: Path, **environment: str) -> str:
    """What Python code prints in another folder, where neither PYTHONPATH nor an editable installation leads to this checkout."""
    clean = {key: value for key, value in quiet_environment().items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", NOT_INSTALLED + code], cwd=cwd, env={**clean, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PREDICT = """
import json, mlflow
try:
    import tasks
    raise SystemExit("the checkout is on the path")
except ImportError:
    pass
model = mlflow.pyfunc.load_model("models:/tiny@champion")
table = model.predict(%r)
print(json.dumps({"columns": list(table.columns), "rows": table.values.tolist()}))
"""
"""Prints the champion's predictions of the texts that are put in for %r."""
