"""Energy and CO2 equivalent of a training."""

import json
import os
from pathlib import Path

import pytest

from tasks.contracts import Adapter
from tasks.errors import RecipeError
from tasks.registry import tracking
from tasks.settings import Settings
from tasks.training.energy import LEDGER, WORLD, co2eq_kg, energy_kwh, intensity_kg_per_kwh, metered
from tasks.workspace.run import Run

pytestmark = pytest.mark.trains


@pytest.mark.parametrize(
    ("hours", "watts", "published"),
    [(9, 300, 1.17), (2.5, 350, 0.38)],  # 2.7 kWh * 0.432 = 1.1664 on an A6000; 0.875 kWh * 0.432 = 0.378 on an RTX 3090
)
def test_the_cards_figures_come_out_of_their_own_numbers(hours: float, watts: float, published: float) -> None:
    assert round(co2eq_kg(energy_kwh(watts, hours), 0.432), 2) == published


def test_intensity_is_the_countrys_own_or_the_worlds() -> None:
    clean, coal, world = (intensity_kg_per_kwh(country) for country in ("SWE", "POL", None))
    assert 0 < clean < 0.1 < world < coal < 1.2
    with pytest.raises(
        RecipeError, match=r"LORAFLOW_COUNTRY_ISO_CODE: XXX is in no table of electricity mixes \(expected: a code like FRA\)"
    ):
        intensity_kg_per_kwh("XXX")
    with pytest.raises(ValueError, match="country_iso_code"):
        Settings(country_iso_code="France")


def test_a_meter_counts_adds_earlier_attempts_and_leaves_no_other_file(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_COUNTRY_ISO_CODE", "FRA")
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / LEDGER).write_text(json.dumps({"g0-a1": 2.0}))
    with metered(kept, "g0-a2") as meter:
        found = meter.emissions()
    own = json.loads((kept / LEDGER).read_text())["g0-a2"]
    assert 0 < own < 0.01, "a second of any machine is less than ten watt hours"
    assert (found.attempts, found.electricity_of) == (2, "FRA")
    assert found.energy_kwh == pytest.approx(2.0 + own)
    assert found.co2eq_kg == pytest.approx(found.energy_kwh * intensity_kg_per_kwh("FRA"))
    assert os.listdir(tmp_path) == ["kept"] and os.listdir(kept) == [LEDGER]


def test_a_trainings_energy_is_in_its_manifest_and_in_mlflow(trained: Run) -> None:
    adapter = trained.read(Adapter)
    assert adapter.emissions is not None
    assert adapter.emissions.energy_kwh > 0 and adapter.emissions.electricity_of == WORLD and adapter.emissions.attempts == 1
    metrics = tracking.client().get_run(adapter.tracked.run_id).data.metrics
    assert metrics["train.energy_kwh"] == pytest.approx(adapter.emissions.energy_kwh)
    assert metrics["train.co2eq_kg"] == pytest.approx(adapter.emissions.co2eq_kg)
