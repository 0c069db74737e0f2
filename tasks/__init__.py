"""The steps of loraflow as plain Python: `python -m tasks <step> --run <folder>`."""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__version__ = "0.1.0"

MOVED = {"tasks.models": "tasks.model.load", "tasks.recipe": "tasks.schema.load", "tasks.tokens": "tasks.model.tokenizer"}
"""Modules that moved, and that model versions registered before the move import.

MLflow loads such a version with the code stored beside it, unless the process has imported this package before.
"""


class _Moved(MetaPathFinder, Loader):
    """Finds a moved module under its former name."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__.update({name: value for name, value in vars(import_module(MOVED[module.__name__])).items() if name[:2] != "__"})


sys.meta_path.append(_Moved())
