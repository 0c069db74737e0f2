"""PATCH: JSON merge patch (RFC 7386), JSON patch (RFC 6902) and Kubernetes' strategic merge patch."""

import copy
from typing import Any

from tests.support.kubernetes_api.answers import Object, Refusal, bad_request

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
    "conditions": "type",
    "ownerReferences": "uid",
    "schedulingGates": "name",
    "hostAliases": "ip",
}
"""Lists whose elements a strategic merge patch finds by a key; of other lists it replaces the whole."""


def patched(thing: Object, kind: str, patch: Any) -> Object:
    """The object after a patch.

    Args:
        thing: the object; it stays as it is.
        kind: content type of the patch.
        patch: its body.
    """
    thing = copy.deepcopy(thing)
    if kind == "application/json-patch+json":
        return _by_operations(thing, patch)
    if kind in ("application/merge-patch+json", "application/strategic-merge-patch+json"):
        if not isinstance(patch, dict):
            raise bad_request("a patch of this type is an object")
        return dict(_merged(thing, patch, strategic="strategic" in kind))
    raise Refusal(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {kind}")


def _merged(thing: Any, patch: Any, strategic: bool) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(thing) if isinstance(thing, dict) else {}
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        before = result.get(key)
        if value is None:
            result.pop(key, None)
        elif strategic and isinstance(value, list):
            result[key] = _merged_list(before or [], value, key)
        else:
            result[key] = _merged(before, value, strategic)
    return {key: value for key, value in patch.items() if key != "$patch"} if patch.get("$patch") == "replace" else result


def _merged_list(before: list[Any], patch: list[Any], name: str) -> list[Any]:
    if name == "finalizers":
        return [*before, *(value for value in patch if value not in before)]
    key = MERGE_KEYS.get(name)
    if key is None:
        return patch
    result = list(before)
    for value in patch:
        place = next((number for number, one in enumerate(result) if one.get(key) == value.get(key)), None)
        if value.get("$patch") == "delete":
            result = [one for one in result if one.get(key) != value.get(key)]
        elif place is None:
            result.append(value)
        else:
            result[place] = _merged(result[place], value, strategic=True)
    return result


def _by_operations(thing: Object, operations: Any) -> Object:
    if not isinstance(operations, list):
        raise bad_request("a JSON patch is a list of operations")
    for operation in operations:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        place: Any = thing
        try:
            for part in parents:
                place = place[int(part)] if isinstance(place, list) else place[part]
            _apply(place, last, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise Refusal(422, "Invalid", f"the server rejected our request: {operation}: {error!r}") from None
    return thing


def _apply(place: Any, last: str, operation: Object) -> None:
    key: Any = last if not isinstance(place, list) else len(place) if last == "-" else int(last)
    match operation["op"]:
        case "add" if isinstance(place, list):
            place.insert(key, operation["value"])
        case "add":
            place[key] = operation["value"]
        case "replace":
            place[key], _ = operation["value"], place[key]  # it has to be there
        case "remove":
            del place[key]
        case "test" if place[key] != operation["value"]:
            raise ValueError("the test failed")
        case "test":
            pass
        case other:
            raise ValueError(f"operation {other}")
