"""A container's environment and command, as a kubelet puts them together."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.kubernetes_api.answers import Object, Refusal
from tests.support.kubernetes_api.container import Plan
from tests.support.kubernetes_api.images import Image
from tests.support.kubernetes_api.quantities import quantity
from tests.support.kubernetes_api.volumes import Look, NotReadyError, Volumes, field_of, keys_of

REFERENCE = re.compile(r"\$(\$|\(([^()]*)\))")


def plan(container: Object, image: Image, pod: Object, volumes: Volumes, look: Look) -> Plan:
    """How a container's process is started.

    Raises:
        NotReadyError: a secret or config map, or a key of it, is missing; or the image has no command.
    """
    security = pod["spec"]["securityContext"] | (container.get("securityContext") or {})
    if security.get("runAsNonRoot") and security.get("runAsUser", image.user) == 0:
        breaks = "container's runAsUser breaks non-root policy"
        raise NotReadyError(breaks if "runAsUser" in security else "container has runAsNonRoot and image will run as root")
    given = _environment(container, pod, look)
    rewrite = volumes.rewriter(container)
    argv = [*(container.get("command") or image.entrypoint), *(container.get("args") or ())]
    if not argv:
        raise NotReadyError("no command specified")
    root = volumes.folder / "root"
    root.mkdir(exist_ok=True)
    env = {"HOSTNAME": pod["metadata"]["name"], "HOME": str(root)} | image.environment() | given
    cwd = Path(rewrite(container["workingDir"])) if container.get("workingDir") else root
    return Plan(
        argv=image.command([rewrite(expand(part, given)) for part in argv]),
        env={name: rewrite(value) for name, value in env.items()},
        cwd=cwd,
        message=volumes.message(container),
    )


def expand(text: str, env: dict[str, str]) -> str:
    """A text with `$(NAME)` replaced by the variable, where there is one; `$$` is a plain dollar."""
    return REFERENCE.sub(lambda found: "$" if found[1] == "$" else env.get(found[2], found[0]), text)


def _environment(container: Object, pod: Object, look: Look) -> dict[str, str]:
    env: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        for kind, key in (("secret", "secretRef"), ("configMap", "configMapRef")):
            if key in source:
                found = _keys(look, kind, source[key]) or {}
                env |= {source.get("prefix", "") + name: value.decode(errors="replace") for name, value in found.items()}
    for variable in container.get("env") or ():
        for value in _values(variable, container, pod, look):
            env[variable["name"]] = expand(value, env) if "valueFrom" not in variable else value
    return env


def _values(variable: Object, container: Object, pod: Object, look: Look) -> Iterator[str]:
    """The variable's value, or nothing where it is optional and not there."""
    source = variable.get("valueFrom")
    if not source:
        yield variable.get("value") or ""
    elif "fieldRef" in source:
        yield field_of(pod, source["fieldRef"]["fieldPath"])
    elif "resourceFieldRef" in source:
        side, _, name = source["resourceFieldRef"]["resource"].partition(".")
        amount = quantity(container["resources"].get(side, {}).get(name, "0"))
        yield str(-(-amount // quantity(source["resourceFieldRef"].get("divisor") or "1")))
    for kind, key in (("secret", "secretKeyRef"), ("configMap", "configMapKeyRef")):
        if source and key in source:
            found = _keys(look, kind, source[key])
            wanted = source[key]["key"]
            if found and wanted in found:
                yield found[wanted].decode(errors="replace")
            elif not source[key].get("optional"):
                kind_name = "Secret" if kind == "secret" else "ConfigMap"
                raise NotReadyError(f"couldn't find key {wanted} in {kind_name} {pod['metadata']['namespace']}/{source[key]['name']}")


def _keys(look: Look, kind: str, reference: Object) -> dict[str, bytes] | None:
    try:
        return keys_of(look, kind, reference["name"])
    except Refusal as refused:
        if reference.get("optional"):
            return None
        raise NotReadyError(refused.message.replace('secrets "', 'secret "').replace('configmaps "', 'configmap "')) from None
