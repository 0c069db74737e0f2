"""Energy of a training and the CO2 equivalent of making it, by codecarbon: offline, no files but the run's own, nothing sent.

The processor's energy is read from its counters (RAPL) and a GPU's from its driver. Without counters codecarbon estimates by the
processor's nominal power (4 W a thread for a model that it does not know) and load, and memory by its size; virtual machines rarely
have counters. What is counted is the whole machine's, other work on it included.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.contracts import Emissions
from tasks.errors import RecipeError
from tasks.settings import settings
from tasks.workspace.files import write_atomically

if TYPE_CHECKING:
    from transformers import TrainerCallback

LEDGER = "energy.json"
"""File that the attempts of a training share: attempt to what it spent so far, kWh."""

WORLD = "world average"


def energy_kwh(watts: float, hours: float) -> float:
    """Energy, kWh, of a device that draws `watts` for `hours`."""
    return watts * hours / 1000


def co2eq_kg(energy: float, intensity: float) -> float:
    """CO2 equivalent, kg, of an energy in kWh at an intensity in kg/kWh.

    Source: Lacoste et al. 2019, "Quantifying the Carbon Emissions of Machine Learning" (arXiv 1910.09700).
    """
    return energy * intensity


def intensity_kg_per_kwh(country: str | None) -> float:
    """Carbon intensity of a country's electricity out of codecarbon's table, kg CO2eq a kWh; the world's average without a country.

    Raises:
        RecipeError: the table has no such country.
    """
    from codecarbon.core.emissions import Emissions as Table
    from codecarbon.core.units import Energy
    from codecarbon.external.geography import GeoMetadata
    from codecarbon.input import DataSource

    source = DataSource()
    if country is None:
        return float(source.get_carbon_intensity_per_source_data()["world_average"]) / 1000
    if country not in source.get_global_energy_mix_data():
        raise RecipeError("LORAFLOW_COUNTRY_ISO_CODE", f"{country} is in no table of electricity mixes", "a code like FRA", "correct it")
    return float(Table(source).get_country_emissions(Energy.from_energy(kWh=1), GeoMetadata(country, country)))


class Meter:
    """Counts the energy of one attempt, and adds what earlier ones of the same training have written down."""

    def __init__(self, folder: Path, attempt: str) -> None:
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.external.logger import set_logger_level

        set_logger_level("error")  # it speaks before it has read its own level
        country = settings().country_iso_code
        self._place, self._intensity = country or WORLD, intensity_kg_per_kwh(country)
        self._ledger, self._attempt = folder / LEDGER, attempt
        folder.mkdir(parents=True, exist_ok=True)
        self._tracker: Any = OfflineEmissionsTracker(
            force_carbon_intensity_g_co2e_kwh=1000.0,  # a kilogram a kWh: what the tracker returns is kWh as well
            save_to_file=False, save_to_api=False, save_to_logger=False, save_to_prometheus=False, save_to_logfire=False,
            electricitymaps_api_token=None, tracking_mode="machine", allow_multiple_runs=True, log_level="error",
        )  # fmt: skip
        self._tracker.start()
        self.note()

    def note(self) -> None:
        """Write down what the attempt has spent so far: it may be killed at any time."""
        spent = _read(self._ledger) | {self._attempt: float(self._tracker.flush() or 0.0)}
        write_atomically(self._ledger, json.dumps(spent, indent=2))

    def stop(self) -> None:
        """Count no further."""
        self._tracker.stop()

    def emissions(self) -> Emissions:
        """What all attempts together have spent."""
        from codecarbon.core.cpu import is_rapl_available

        self.note()
        spent = _read(self._ledger)
        energy = sum(spent.values())
        return Emissions(
            energy_kwh=energy,
            co2eq_kg=co2eq_kg(energy, self._intensity),
            intensity_kg_per_kwh=self._intensity,
            electricity_of=self._place,
            processor_measured=bool(is_rapl_available()),
            attempts=len(spent),
        )


@contextmanager
def metered(folder: Path, attempt: str) -> Iterator[Meter]:
    """A meter that runs inside.

    Args:
        folder: shared by the attempts of a training.
        attempt: name of this one.
    """
    meter = Meter(folder, attempt)
    try:
        yield meter
    finally:
        meter.stop()


def meter_reader(meter: Meter) -> "TrainerCallback":
    """A trainer callback that notes the energy with each checkpoint."""
    from transformers import TrainerCallback

    class MeterReader(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            meter.note()

    return MeterReader()


def _read(ledger: Path) -> dict[str, float]:
    return dict(json.loads(ledger.read_text(encoding="utf-8"))) if ledger.exists() else {}
