"""What DVC calls a folder's content, and whether it is the content that this checkout's `data.dvc` pins.

`data.dvc` pins the demo's data set: rebuilt on any machine it must come out bit by bit the same. It is DVC's own format
(`meta` is DVC's place for a user's notes) and points to a folder `data/` that holds one recipe's folder. To make it anew
after a change that is meant to change the data, run the recipe as far as `version`, then

    python -m tasks.data.fingerprint tweets .loraflow/runs/tweets/<run>/version/<attempt>/data > data.dvc

`tests/data/test_demo_data.py` checks it. Knows only where the checkout is.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tasks.settings import CHECKOUT

PIN = CHECKOUT / "data.dvc"


def listing(folder: Path) -> dict[str, str]:
    """Relative path to md5 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() for path in files}


def folder_hash(files: Mapping[str, str]) -> str:
    """DVC's hash of a folder.

    Args:
        files: relative path to md5, as `listing` returns it.

    Returns:
        The md5 of the listing as DVC writes it, ending in `.dir`.
    Source: dvc_data.hashfile.tree.Tree.as_bytes, of which this is the standard library's version; a test holds the two together.
    """
    entries = [{"md5": md5, "relpath": path} for path, md5 in sorted(files.items())]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def pin_of(recipe: str, folder: Path) -> dict[str, Any]:
    """What `data.dvc` says when `data/` holds nothing but this recipe's folder."""
    files = listing(folder)
    out = {
        "md5": folder_hash({f"{recipe}/{path}": md5 for path, md5 in files.items()}),
        "size": sum((folder / path).stat().st_size for path in files),
        "nfiles": len(files),
        "hash": "md5",
        "path": "data",
    }
    return {"outs": [out], "meta": {"recipe": recipe}}


def matches_pin(recipe: str, folder: Path, pin: Path = PIN) -> bool | None:
    """Whether a recipe's data folder is bit by bit the pinned one; None where the pin is of another recipe or there is none."""
    if not pin.exists():
        return None
    pinned = yaml.safe_load(pin.read_text(encoding="utf-8"))
    if pinned["meta"]["recipe"] != recipe:
        return None
    return bool(pinned["outs"] == pin_of(recipe, folder)["outs"])


if __name__ == "__main__":
    print(f"# The data set of the recipe {sys.argv[1]}, the same on every machine; tasks/data/fingerprint.py makes and checks it.")
    print(yaml.safe_dump(pin_of(sys.argv[1], Path(sys.argv[2])), sort_keys=False), end="")
