"""labelSelector and fieldSelector."""

import re
from collections.abc import Callable, Mapping

from tests.support.kubernetes_api.answers import Object, bad_request

Labels = Mapping[str, str]

KEY = r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?"
VALUE = r"([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?"
EQUALITY = re.compile(rf"\s*(?P<key>{KEY})\s*(?P<sign>==|=|!=)\s*(?P<value>{VALUE})\s*")
SET = re.compile(rf"\s*(?P<key>{KEY})\s+(?P<word>in|notin)\s*\((?P<values>[^()]*)\)\s*")
EXISTENCE = re.compile(rf"\s*(?P<none>!?)\s*(?P<key>{KEY})\s*")
COMMA = re.compile(r",(?![^(]*\))")
"""A comma that is not within a set."""

POD_FIELDS = (
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
)
EVENT_FIELDS = (
    *(f"involvedObject.{part}" for part in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")),
    "reason",
    "reportingComponent",
    "source",
    "type",
)
FIELDS = {"pods": POD_FIELDS, "events": EVENT_FIELDS, "secrets": ("type",), "namespaces": ("status.phase",)}
"""What can be asked for besides name and namespace."""


def by_labels(text: str) -> Callable[[Labels], bool]:
    """Whether labels fit a selector.

    Raises:
        Refusal: the selector cannot be read.
    """
    rules = [_rule(part) for part in COMMA.split(text) if text.strip()]
    return lambda labels: all(rule(labels) for rule in rules)


def _rule(part: str) -> Callable[[Labels], bool]:
    if found := EQUALITY.fullmatch(part):
        key, value = found["key"], found["value"]
        return _among(key, {value}) if found["sign"] != "!=" else _not_among(key, {value})
    if found := SET.fullmatch(part):
        values = {value.strip() for value in found["values"].split(",")}
        return (_among if found["word"] == "in" else _not_among)(found["key"], values)
    if found := EXISTENCE.fullmatch(part):
        key, wanted = found["key"], not found["none"]
        return lambda labels: (key in labels) is wanted
    raise bad_request(f"unable to parse requirement: {part!r}")


def _among(key: str, values: set[str]) -> Callable[[Labels], bool]:
    return lambda labels: key in labels and labels[key] in values


def _not_among(key: str, values: set[str]) -> Callable[[Labels], bool]:
    """An object without the key fits too."""
    return lambda labels: labels.get(key) not in values


def by_fields(plural: str, text: str) -> Callable[[Object], bool]:
    """Whether an object of a kind fits a field selector.

    Raises:
        Refusal: a field that this kind cannot be asked for, or a selector that cannot be read.
    """
    rules = [_field_rule(plural, part) for part in text.split(",") if text.strip()]
    return lambda thing: all(rule(thing) for rule in rules)


def _field_rule(plural: str, part: str) -> Callable[[Object], bool]:
    key, sign, value = part.partition("!=") if "!=" in part else part.partition("=")
    value = value.removeprefix("=")
    if not sign:
        raise bad_request(f"invalid selector: '{part}'; can't understand '{part}'")
    if key not in ("metadata.name", "metadata.namespace", *FIELDS.get(plural, ())):
        raise bad_request(f'Unable to find "{plural}" that match field selector "{part}": field label not supported: {key}')
    return lambda thing: (_field(thing, key) == value) is (sign == "=")


def _field(thing: Object, path: str) -> str:
    found: object = thing
    for key in path.split("."):
        found = found.get(key, "") if isinstance(found, dict) else ""
    if path == "source" and isinstance(found, dict):
        found = found.get("component", "")
    return str(found).lower() if isinstance(found, bool) else str(found)
