"""From which hosts data, models and packages may be fetched: LORAFLOW_ALLOWED_HOSTS.

Every client asks here before each request, so that no redirect leads elsewhere. The team's own services (git, DVC's remote, MLflow,
the workspace) are set by the team and are none of this.
"""

from urllib.parse import urlsplit

from tasks.errors import RecipeError
from tasks.secrets.redaction import without_credentials
from tasks.settings import settings


def allowed(host: str, listed: tuple[str, ...]) -> bool:
    """Whether a list of hosts holds a host: by its name, or by `*.example.org`, which is all hosts below that one.

    An empty list holds every host.
    """
    host = host.rstrip(".").lower()
    names = [name.rstrip(".").lower() for name in listed]
    return not names or any(host.endswith(name[1:]) if name.startswith("*.") else host == name for name in names)


def check_host(where: str, url: str) -> None:
    """Raise where an address leads to a host that is not allowed.

    Args:
        where: the recipe's key that the address comes from, or the client at work.
        url: address of the request.

    Raises:
        RecipeError: it does.
    """
    listed, host = settings().allowed_hosts, urlsplit(url).hostname or ""
    if not allowed(host, listed):
        shown = without_credentials(url).partition("?")[0]
        raise RecipeError(
            where, f"leads to {host} ({shown})", f"a host of LORAFLOW_ALLOWED_HOSTS ({', '.join(listed)})",
            "add the host there, or fetch from another place",
        )  # fmt: skip
