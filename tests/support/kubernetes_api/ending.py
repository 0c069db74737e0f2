"""How a pod is brought to its end before its containers come to theirs."""

import time
from dataclasses import dataclass, field

from tests.support.kubernetes_api.answers import Object


@dataclass
class Ending:
    """How a pod is brought to its end.

    Attributes:
        grace: seconds between SIGTERM and SIGKILL.
        status: what the pod's status says in the end: reason, message.
        condition: a condition that the pod gets at once, DisruptionTarget for example.
        remove: whether the object goes when all has ended.
    """

    grace: float
    status: Object = field(default_factory=dict)
    condition: Object | None = None
    remove: bool = False
    begun: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds until SIGKILL."""
        return self.begun + self.grace - time.monotonic()
