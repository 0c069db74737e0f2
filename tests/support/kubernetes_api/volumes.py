"""Volumes as folders of this machine. A process here cannot have another root, so whatever names a mount path is rewritten."""

import base64
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.kubernetes_api.answers import Object, Refusal

Look = Callable[[str, str], Object]
"""(plural, name) -> the object of this name in the pod's namespace."""


class NotReadyError(Exception):
    """Something that a pod needs is not there yet; the message is the cluster's."""


class Volumes:
    """The volumes of one pod.

    Args:
        folder: of this pod alone; it goes with it.
        claim: where the volume of a claim of this name stays.
        pod: the pod.
        look: finds config maps, secrets and claims.
    """

    def __init__(self, folder: Path, claim: Callable[[str], Path], pod: Object, look: Look) -> None:
        self.folder, self.pod, self._claim, self._look = folder, pod, claim, look
        self._folders: dict[str, Path] = {}

    def make(self) -> None:
        """Fill every volume.

        Raises:
            NotReadyError: what one of them shows does not exist.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for volume in self.pod["spec"].get("volumes", ()):
            kind = next(key for key in volume if key != "name")
            try:
                self._folders[volume["name"]] = self._made(volume["name"], kind, volume[kind] or {})
            except Refusal as refused:
                raise NotReadyError(f'MountVolume.SetUp failed for volume "{volume["name"]}" : {refused.message}') from None

    def _made(self, name: str, kind: str, source: Object) -> Path:
        folder = self.folder / "volumes" / name
        if kind == "persistentVolumeClaim":
            self._look("persistentvolumeclaims", source["claimName"])
            folder = self._claim(source["claimName"])
        elif kind not in ("emptyDir", "secret", "configMap"):
            raise NotReadyError(f'volume "{name}" is of the kind {kind}, which the fake cluster does not know')
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in self._files(kind, source):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return folder

    def _files(self, kind: str, source: Object) -> Iterator[tuple[str, bytes]]:
        if kind in ("secret", "configMap"):
            try:
                found = keys_of(self._look, kind, source.get("secretName") or source["name"])
            except Refusal:
                if source.get("optional"):
                    return
                raise
            items = source.get("items") or [{"key": key, "path": key} for key in found]
            for item in items:
                yield item["path"], found[item["key"]]

    def rewriter(self, container: Object) -> Callable[[str], str]:
        """What turns a text's mount paths, as this container sees them, into folders of this machine."""
        places = {container["terminationMessagePath"]: self.message(container)}
        for mount in container.get("volumeMounts") or ():
            inside = mount.get("subPath") or ""
            place = self._folders[mount["name"]] / inside
            if inside and not place.exists():
                place.mkdir(parents=True)
            places[mount["mountPath"].rstrip("/")] = place
        longest = sorted(places, key=len, reverse=True)
        begins = r"(?:(?<![\w./-])|(?<=://)|(?<=:///))"  # at a word's start, or after a URL's scheme
        form = re.compile(begins + "(" + "|".join(map(re.escape, longest)) + r")(?=$|[/:,;\s\"'?])")
        return lambda text: form.sub(lambda found: str(places[found[1]]), text)

    def message(self, container: Object) -> Path:
        """The file for a container's last message."""
        return self.folder / f"{container['name']}.termination-log"

    def remove(self) -> None:
        """Nothing but the persistent volumes stays."""
        shutil.rmtree(self.folder, ignore_errors=True)


def keys_of(look: Look, kind: str, name: str) -> dict[str, bytes]:
    """Keys and values of a secret or a config map."""
    found = look("secrets" if kind == "secret" else "configmaps", name)
    coded = found.get("data") if kind == "secret" else found.get("binaryData")
    values = {key: base64.b64decode(value) for key, value in (coded or {}).items()}
    if kind == "configMap":
        values |= {key: value.encode() for key, value in (found.get("data") or {}).items()}
    return values


def field_of(pod: Object, path: str) -> str:
    """A field of a pod, as `fieldRef` names it."""
    if keyed := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return str(pod["metadata"].get(keyed[1], {}).get(keyed[2], ""))
    found: object = pod
    for key in path.split("."):
        found = found.get(key, "") if isinstance(found, dict) else ""
    return str(found)
