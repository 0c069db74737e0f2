"""The Hugging Face Hub as a place to publish to: whether the token is good, and may write to the namespace."""

from collections.abc import Iterator
from typing import Any

from tasks.contracts import Finding
from tasks.doctor.findings import fault, good, warning
from tasks.doctor.scope import Scope
from tasks.fetch import hub as hub_client
from tasks.registry import publish
from tasks.secrets.redaction import in_one_line

WHAT = "Hub token"
WRITERS = ("admin", "write", "contributor")
"""Roles in an organisation that may make repositories."""


def hub_rights(scope: Scope) -> Iterator[Finding]:
    """Ask the Hub who the token is of, and what it may do; only where the run may publish there."""
    place = scope.settings.hub_url
    namespace = publish.namespace(place)
    if not place.startswith("hub:") or not scope.publishes:
        return
    token = hub_client.token()
    if not token:
        yield fault(
            WHAT, "HF_TOKEN is not set (expected: a token that may write)", f"make one at {_page()}, or publish to a folder (LORAFLOW_HUB)"
        )
        return
    yield _judged(_who(token), namespace)


def _page() -> str:
    return hub_client.page("settings/tokens")


def _who(token: str | bool) -> dict[str, Any] | Finding:
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return dict(HfApi(token=token, library_name="loraflow").whoami())
    except (HfHubHTTPError, HTTPError, OfflineModeIsEnabled) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            return fault(WHAT, f"the Hub refuses it (HTTP {status}): it is wrong, expired or revoked", f"make a new one at {_page()}")
        said = f"HTTP {status}" if status else in_one_line(error) or type(error).__name__
        return fault(WHAT, f"the Hub was not reached ({said})", "check HF_ENDPOINT and the network", passing=True)


def _judged(who: dict[str, Any] | Finding, namespace: str) -> Finding:
    """What an answer of `whoami` says of the right to write to a namespace."""
    if isinstance(who, Finding):
        return who
    user, orgs = str(who.get("name")), {str(org.get("name")): org for org in who.get("orgs") or ()}
    if namespace not in (user, *orgs):
        mine = ", ".join((user, *orgs))
        remedy = f"ask its owners for a role that may write, or set LORAFLOW_HUB to one of hub:{mine}"
        return fault(WHAT, f"it is of {user}, who is no member of {namespace}", remedy)
    role = orgs.get(namespace, {}).get("roleInOrg")
    if role is not None and role not in WRITERS:
        return fault(WHAT, f"{user} has the role {role} in {namespace} (expected: one of {', '.join(WRITERS)})", "ask its owners for one")
    access = (who.get("auth") or {}).get("accessToken") or {}
    kind = access.get("role")
    if kind == "write":
        return good(WHAT, f"of {user}, may write to {namespace}")
    if kind == "read":
        return fault(WHAT, "it may only read", f"make one of the kind write, or a fine-grained one, at {_page()}")
    if kind == "fineGrained":
        return _scoped(access.get("fineGrained") or {}, user, namespace)
    return warning(WHAT, f"of {user}; the Hub does not say what it may do", "see that it may write, before hours of training")


def _scoped(fine: dict[str, Any], user: str, namespace: str) -> Finding:
    """Of a fine-grained token: whether it may write to the repositories of the namespace."""
    for scope in fine.get("scoped") or ():
        entity = scope.get("entity") or {}
        if entity.get("name") == namespace and "repo.write" in (scope.get("permissions") or ()):
            return good(WHAT, f"of {user}, fine-grained, may write to the repositories of {namespace}")
    remedy = f"give it the right to write to the contents of all repositories under {namespace}, at {_page()}"
    return fault(WHAT, f"fine-grained, without the right to write to the repositories of {namespace}", remedy)
