"""Objects by name, each change under a version of its own, and a memory of changes for those who watch."""

import copy
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.support.kubernetes_api.answers import Object, already_exists, conflict, expired, not_found

FIRST_VERSION = 100


def now() -> str:
    """The time as the API writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Change:
    """One step in an object's life; `previous` lets a watch with a selector see objects come into view and leave it."""

    version: int
    type: str
    plural: str
    object: Object
    previous: Object | None


class Store:
    """Whatever it hands out is never changed afterwards: an update puts a new object in the old one's place."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.version = FIRST_VERSION
        self.oldest = FIRST_VERSION
        self.last_seen: dict[str, Object] = {}
        """Uid to the last state of every object there ever was."""
        self._objects: dict[tuple[str, str, str], Object] = {}
        self._changes: list[Change] = []

    def create(self, plural: str, thing: Object) -> Object:
        """Keep a new object under its name; uid, version and time are given here."""
        thing = copy.deepcopy(thing)
        meta = thing["metadata"]
        key = (plural, meta.get("namespace", ""), meta["name"])
        with self.changed:
            if key in self._objects:
                raise already_exists(plural, meta["name"])
            meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
            self._keep("ADDED", key, thing, None)
            return thing

    def get(self, plural: str, namespace: str, name: str) -> Object:
        """The object of this name.

        Raises:
            Refusal: there is none.
        """
        with self.changed:
            found = self._objects.get((plural, namespace, name))
        if found is None:
            raise not_found(plural, name)
        return found

    def has(self, plural: str, namespace: str, name: str) -> bool:
        """Whether there is an object of this name."""
        with self.changed:
            return (plural, namespace, name) in self._objects

    def all(self, plural: str, namespace: str = "") -> tuple[list[Object], int]:
        """All objects of a kind (in one namespace), in the order of their names, and the version that this is true of."""
        with self.changed:
            kept = sorted(key for key in self._objects if key[0] == plural and namespace in ("", key[1]))
            return [self._objects[key] for key in kept], self.version

    def update(self, plural: str, namespace: str, name: str, change: Callable[[Object], object], uid: str | None = None) -> Object:
        """Change an object, as one step for everybody else.

        Args:
            change: gets a copy to change.
            uid: refuse if the name has become another object's.
        """
        with self.changed:
            before = self.get(plural, namespace, name)
            if uid not in (None, before["metadata"]["uid"]):
                raise not_found(plural, name)
            after = copy.deepcopy(before)
            change(after)
            if after["metadata"].get("resourceVersion") != before["metadata"]["resourceVersion"]:
                raise conflict(plural, name, "the object has been modified; please apply your changes to the latest version and try again")
            if after == before:
                return before
            if (
                "deletionTimestamp" in after["metadata"]
                and before["metadata"].get("finalizers")
                and not after["metadata"].get("finalizers")
            ):
                return self.remove(plural, namespace, name)
            self._keep("MODIFIED", (plural, namespace, name), after, before)
            return after

    def remove(self, plural: str, namespace: str, name: str, uid: str | None = None) -> Object:
        """Forget an object; returns its last state."""
        with self.changed:
            before = self.get(plural, namespace, name)
            if uid not in (None, before["metadata"]["uid"]):
                raise not_found(plural, name)
            after = copy.deepcopy(before)
            self._keep("DELETED", (plural, namespace, name), after, before)
            del self._objects[plural, namespace, name]
            return after

    def since(self, version: int, plural: str, namespace: str) -> list[Change]:
        """Changes after a version.

        Raises:
            Refusal: 410, so long ago that they are forgotten.
        """
        with self.changed:
            if version < self.oldest:
                raise expired(version, self.oldest)
            return [
                change
                for change in self._changes[max(0, version - self.oldest) :]
                if change.plural == plural and namespace in ("", change.object["metadata"].get("namespace", ""))
            ]

    def forget(self) -> None:
        """Let every version before this moment be too old."""
        with self.changed:
            self.version += 1
            self.oldest = self.version
            self._changes.clear()
            self.changed.notify_all()

    def _keep(self, kind: str, key: tuple[str, str, str], thing: Object, previous: Object | None) -> None:
        self.version += 1
        thing["metadata"]["resourceVersion"] = str(self.version)
        self._objects[key] = thing
        self.last_seen[thing["metadata"]["uid"]] = thing
        self._changes.append(Change(self.version, kind, key[0], thing, previous))
        self.changed.notify_all()
