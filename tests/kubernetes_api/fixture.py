"""The fixture `kubernetes_api`, which tests/conftest.py hands to every test."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.kubernetes_api.fake import KubernetesApi


@pytest.fixture
def kubernetes_api(tmp_path: Path) -> Iterator["KubernetesApi"]:
    """A small Kubernetes API server on loopback, with no pods; every process that it starts ends with the test."""
    from tests.kubernetes_api.fake import serve  # most tests need none

    with serve(tmp_path / "kubernetes") as api:
        yield api
