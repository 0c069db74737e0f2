"""Pods for tests: a line of Python in a public image, as a restricted namespace admits it."""

from typing import Any

from tests.support.kubernetes_api.answers import Object

IMAGE = "python:3.11-slim"
PATIENT = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(143)))\n"
PATIENT += "print('ready', flush=True)\ntime.sleep(60)"
"""A process that waits, and on SIGTERM saves and ends."""


def pod(
    name: str, code: str = "print('done')", labels: dict[str, str] | None = None, container: Object | None = None, **spec: Any
) -> Object:
    """A pod that runs a piece of Python; `container` and `spec` add to it."""
    security = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    amounts = {"cpu": "100m", "memory": "128Mi", "ephemeral-storage": "100Mi"}
    base: Object = {
        **{"name": "base", "image": IMAGE, "command": ["python", "-u", "-c", code], "securityContext": security},
        **{"resources": {"requests": dict(amounts), "limits": dict(amounts)}, **(container or {})},
    }
    whole = {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    body: Object = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 10, "securityContext": whole, "containers": [base], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels or {}}, "spec": body}
