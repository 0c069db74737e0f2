"""What goes wrong with requests: errors, slowness, an expired token, missing rights, cut connections."""

import fnmatch
import threading
import time
from dataclasses import dataclass, field

from tests.support.kubernetes_api.answers import Object, Refusal, forbidden, unauthorized

REASONS = {429: "TooManyRequests", 500: "InternalError", 502: "BadGateway", 503: "ServiceUnavailable", 504: "Timeout"}


@dataclass
class Failing:
    """The next requests that are answered with an error."""

    status: int
    times: int
    method: str
    path: str
    retry_after: int | None


@dataclass(frozen=True)
class Asked:
    """What a request wants, in the words of access rules."""

    verb: str
    resource: str
    namespace: str = ""
    name: str = ""
    group: str = ""

    def granted_by(self, rule: Object) -> bool:
        """Whether a rule of a Role covers it."""
        parts = ((self.verb, "verbs"), (self.resource, "resources"), (self.group, "apiGroups"))
        covered = all({value, "*"} & set(rule.get(key, ())) for value, key in parts)
        return covered and self.name in rule.get("resourceNames", [self.name])


@dataclass
class CallFaults:
    """The switches; each is read under a lock, since requests come side by side."""

    delay: float = 0.0
    """Seconds that each request waits before it is carried out."""
    linger: float = 0.0
    """Seconds that each answer waits after its request was carried out."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    """(verb, resource) that the client has no right to; `*` stands for any."""
    rules: list[Object] | None = None
    """Of a Role: the client has these rights and no others; without them it has every right."""
    expired: int = 0
    """So many requests more find their token expired."""
    failing: list[Failing] = field(default_factory=list)
    cuts: int = 0
    """So many requests more get no answer: the connection ends."""
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def before(self, method: str, path: str) -> bool:
        """Play what is on for this request; False: cut its connection.

        Raises:
            Refusal: the error that it gets.
        """
        time.sleep(self.delay)
        with self._guard:
            if self.cuts:
                self.cuts -= 1
                return False
            if self.expired:
                self.expired -= 1
                raise unauthorized()
            for one in self.failing:
                if one.times and one.method in ("", method) and one.path in path:
                    one.times -= 1
                    headers = {"Retry-After": str(one.retry_after)} if one.retry_after is not None else {}
                    details = {"retryAfterSeconds": one.retry_after} if one.retry_after is not None else {}
                    raise Refusal(one.status, REASONS.get(one.status, "Unknown"), "the fake was told to answer so", details, headers)
        return True

    def allows(self, asked: Asked) -> bool:
        """Whether the client has the right."""
        if self.rules is not None and not any(asked.granted_by(rule) for rule in self.rules):
            return False
        return not any(fnmatch.fnmatch(asked.verb, verb) and fnmatch.fnmatch(asked.resource, resource) for verb, resource in self.refused)

    def authorize(self, asked: Asked) -> None:
        """Refuse what the client has no right to.

        Raises:
            Refusal: 403.
        """
        if not self.allows(asked):
            plural = asked.resource.partition("/")[0]
            where = f' in the namespace "{asked.namespace}"' if asked.namespace else " at the cluster scope"
            why = f'User "tester" cannot {asked.verb} resource "{asked.resource}" in API group ""{where}'
            raise forbidden(plural, asked.name, why)
