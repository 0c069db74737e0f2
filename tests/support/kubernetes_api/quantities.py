"""Amounts as Kubernetes writes them: 500m, 4Gi, 2."""

import re
from collections.abc import Iterable
from decimal import Decimal

from kubernetes.utils import parse_quantity

from tests.support.kubernetes_api.answers import Object

FORM = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+|[numkMGTPE]|[KMGTPE]i)?")
"""What the API accepts; the client's parser accepts more."""

Amounts = dict[str, Decimal]


class BadQuantityError(ValueError):
    """No amount."""


def quantity(text: object) -> Decimal:
    """The amount that a text stands for.

    Raises:
        BadQuantityError: it stands for none.
    """
    if not FORM.fullmatch(str(text)):
        raise BadQuantityError(str(text))
    return Decimal(parse_quantity(str(text)))


def pod_amounts(spec: Object, side: str = "requests") -> Amounts:
    """What a pod asks for (or is limited to): the sum over its containers, or an init container's where that is more."""
    total = _sum(container.get("resources", {}).get(side, {}) for container in spec["containers"])
    for container in spec.get("initContainers", ()):
        for name, text in container.get("resources", {}).get(side, {}).items():
            total[name] = max(total.get(name, Decimal(0)), quantity(text))
    return total


def _sum(parts: Iterable[dict[str, str]]) -> Amounts:
    total: Amounts = {}
    for part in parts:
        for name, text in part.items():
            total[name] = total.get(name, Decimal(0)) + quantity(text)
    return total
