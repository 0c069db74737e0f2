"""The files of docker/kubernetes as a test reads them: objects, settings, and the rights that they grant."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tasks.local_servers.configuration import environment_file
from tasks.settings import CHECKOUT

FOLDER = CHECKOUT / "docker" / "kubernetes"
EXTRAS = ("kueue.yaml", "private-store.yaml", "workspace-volume.yaml")
"""Files that an installation names where it needs them."""

Object = dict[str, Any]
Right = tuple[str, str]

CALL = re.compile(r"(create|delete|read|list|patch|replace|connect_get)_namespaced_(pod|event)(_log|_exec|_status)?$")
VERBS = {"read": "get", "replace": "update", "connect_get": "get"}


def text(name: str) -> str:
    """A file's text."""
    return (FOLDER / name).read_text(encoding="utf-8")


def documents(name: str) -> list[Object]:
    """The objects of a file."""
    return [document for document in yaml.safe_load_all(text(name)) if document]


def kustomization() -> Object:
    """What `kubectl apply -k` reads."""
    (found,) = documents("kustomization.yaml")
    return found


def core() -> list[Object]:
    """The objects of all files that are applied, or may be, as they stand in the files."""
    names = [*kustomization()["resources"], *EXTRAS]
    return [document for name in names for document in documents(name)]


def of_kind(*kinds: str) -> list[Object]:
    """Those objects of some kinds."""
    return [document for document in core() if document["kind"] in kinds]


def one(kind: str, name: str, namespace: str | None = None) -> Object:
    """The object of that kind and name."""
    (found,) = [o for o in of_kind(kind) if o["metadata"]["name"] == name and o["metadata"].get("namespace") == namespace]
    return found


def environment(name: str) -> dict[str, str]:
    """The variables of an .env file, as kustomize and kubectl read it: no quotes, no comments behind a value."""
    return environment_file(FOLDER / name)


def suggested(name: str) -> dict[str, str]:
    """The variables that an .env file has in comments, for whoever needs them."""
    return dict(re.findall(r"^# ([A-Z_]+)=(.*)$", text(name), re.M))


def values(name: str = "airflow.values.yaml") -> Object:
    """The values for Airflow's chart."""
    (found,) = documents(name)
    return found


def granted() -> frozenset[Right]:
    """(verb, resource) of all that Airflow's service accounts may do to the steps' namespace; resources like pods/log."""
    rules = one("Role", "loraflow-runner", "loraflow")["rules"]
    return frozenset((verb, resource) for rule in rules for resource in rule["resources"] for verb in rule["verbs"])


def right_of(call: str) -> Right | None:
    """The right that a call of the Kubernetes client needs, `read_namespaced_pod_log` for example; None: it is of no pod or event."""
    if not (found := CALL.fullmatch(call)):
        return None
    verb, kind, part = found.groups()
    return VERBS.get(verb, verb), f"{kind}s" + (part or "").replace("_", "/")


def calls(files: Iterable[Path]) -> Iterator[str]:
    """The calls of the Kubernetes client in source files, by name."""
    for file in files:
        yield from re.findall(r"\b(?:create|delete|read|list|patch|replace|connect_get)_namespaced_\w+", file.read_text(encoding="utf-8"))
