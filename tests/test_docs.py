"""The docs: what they name exists, and what exists is in them."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import STEPS
from tasks.schema.load import recipe_files
from tasks.schema.recipe import Recipe
from tasks.settings import CHECKOUT, Settings

DOCS = [CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md", *sorted((CHECKOUT / "docs").glob("*.md")), CHECKOUT / "mlflow" / "README.md"]


def text(name: str) -> str:
    return (CHECKOUT / name).read_text(encoding="utf-8")


def command(*arguments: str) -> str:
    return subprocess.run([sys.executable, "-m", "tasks", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout


def recipe_keys(node: dict[str, Any], definitions: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf key of the recipe's schema with its description; keys of a section's several forms one after the other."""
    for key, field in node["properties"].items():
        options = [field, field.get("items", {}), *field.get("anyOf", ())]
        references = [form["$ref"] for option in options for form in (option, *option.get("oneOf", ())) if "$ref" in form]
        if references == ["#/$defs/Table"]:
            yield f"{prefix}{key}", field.get("description", "")
        elif references:
            many = "[]" if "items" in field else ""
            for reference in references:
                yield from recipe_keys(definitions[reference.rsplit("/", 1)[-1]], definitions, f"{prefix}{key}{many}.")
        else:
            yield f"{prefix}{key}", field.get("description", "")


def test_every_setting_is_documented() -> None:
    page = text("docs/settings.md")
    for name, field in Settings.model_fields.items():
        row = next((line for line in page.splitlines() if line.startswith(f"| `LORAFLOW_{name.upper()}` |")), "")
        assert row.endswith(f"| {field.description} |"), name
    assert set(re.findall(r"^\| `LORAFLOW_(\w+)`", page, re.M)) == {name.upper() for name in Settings.model_fields}


def test_every_recipe_key_is_documented() -> None:
    page, schema = text("docs/recipes.md"), Recipe.model_json_schema()
    keys = set(recipe_keys(schema, schema["$defs"]))
    assert len(keys) > 60
    for key, description in keys:
        rows = [line for line in page.splitlines() if line.startswith(f"| `{key}` |")]
        assert any(row.endswith(f"| {description} |") for row in rows), key
    assert set(re.findall(r"^\| `([a-z_.\[\]0-9]+)` \|", page, re.M)) == {key for key, _ in keys}


def test_every_step_and_recipe_is_in_the_readme() -> None:
    readme = text("README.md")
    assert all(step in readme for step in STEPS)
    assert all(f"| `{path.stem}` |" in readme for path in recipe_files())


def test_every_command_that_the_docs_name_exists() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in DOCS)
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", pages, re.M))
    assert named and named <= targets
    commands = set(re.findall(r"│ ([a-z]+) ", command("--help")))
    used = set(re.findall(r"(?:bin/|`)loraflow ([a-z]+)", pages))
    assert used and used <= commands


def test_the_readme_names_the_pythons_that_are_tried() -> None:
    (tried,) = re.findall(r"^PYTHONS := (.+)$", text("Makefile"), re.M)
    (line,) = re.findall(r"^.*Tested on .*$", text("README.md"), re.M)
    assert re.findall(r"\d\.\d+", line.partition("Tested on")[2]) == tried.split()


@pytest.mark.parametrize("line", sorted(set(re.findall(r"bin/loraflow ((?:recipes|check \w+))", text("README.md")))))
def test_quick_commands_of_the_readme_run(line: str) -> None:
    assert "ethos" in command(*line.split())


@pytest.mark.parametrize("page", DOCS, ids=lambda path: path.name)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target
