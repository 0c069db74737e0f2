"""benchmarks/true_size.py: the base models' numbers, and the whole path at tiny size."""

import re

import pytest

from benchmarks import true_size
from benchmarks.bases import BASES, configuration, on_paper
from tasks.schema import load as recipes

pytestmark = pytest.mark.trains

PUBLISHED = [path.stem for path in recipes.recipe_files() if recipes.load(path)["base_model"]["name"] in BASES]


@pytest.mark.parametrize("name", BASES)
def test_the_numbers_give_the_published_size(name: str) -> None:
    assert on_paper(configuration(name)).num_parameters() == BASES[name].parameters
    assert on_paper(configuration(name, tiny=True)).num_parameters() < 200_000


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_recipe_is_measured_at_tiny_size(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    true_size.main([name, "--tiny", "--steps", "6", "--peak-tflops", "0.05"])
    table = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", capsys.readouterr().out, re.M))
    recipe = recipes.resolve(recipes.load(recipes.RECIPES / f"{name}.yaml"), "full")
    train = recipe.train
    tokens = train.per_device_train_batch_size * train.gradient_accumulation_steps * min(recipe.prompt.max_tokens, 128)
    assert table["tokens a step"] == f"{tokens:,}" and "tiny" in table["base model"]
    parameters, speed = (float(re.search(r"([\d,]+) parameters|^([\d,]+)$", table[key])[0].split()[0].replace(",", ""))
                         for key in ("base model", "tokens/s"))  # fmt: skip
    share = float(table["model FLOP utilisation"].partition("%")[0]) / 100
    assert speed > 0 and share == pytest.approx(6 * parameters * speed / 0.05e12, abs=0.001)
    assert table["peak memory"].endswith("GiB") and table["merge"].endswith("s")


def test_model_flop_utilisation_is_six_a_parameter_and_token() -> None:
    found = true_size.Measured(2_000_000_000, 1, 1, 10_000.0, 1.0, 1.0, 1.0, 1.0)
    assert found.utilisation(240) == pytest.approx(0.5)  # 6 * 2e9 * 1e4 = 1.2e14, of 2.4e14


def test_what_cannot_be_measured_is_told() -> None:
    with pytest.raises(SystemExit, match=r"tweets.yaml: base_model.name: is pypi:.* .expected: one of google/gemma-2b-it"):
        true_size.main(["tweets"])
    with pytest.raises(
        Exception, match=r"the peak throughput of Abacus is not known \(expected: one of H200.*\)\. Fix: give --peak-tflops"
    ):
        true_size._peak_tflops(None, "Abacus", tiny=False)
    assert true_size._peak_tflops(None, "NVIDIA L40S", tiny=False) == 362 and true_size._peak_tflops(70, "Abacus", tiny=False) == 70
