"""What may be shown of a text that others wrote: addresses without their passwords, and no value of a secret variable.

Libraries put the address they talked to into their errors, and servers repeat what they were sent. Our own messages name
variables, never values; this is for the words of others that stand in them. Knows nobody.
"""

import os
import re
from collections.abc import Iterator
from urllib.parse import quote, unquote

HIDDEN = "…"
SHORTEST = 6
"""A value shorter than this is no secret that could be told from ordinary words."""

SECRET_NAME = re.compile(r"(^|_)(TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET|KEY|CREDENTIALS)$", re.IGNORECASE)
"""Names of variables whose value is a secret: HF_TOKEN, AWS_SECRET_ACCESS_KEY, MLFLOW_TRACKING_PASSWORD, …"""

USER_INFO = re.compile(r"(https?)?://([^/\s'\"]+)@")
"""Name and password in an address, or a token in place of both."""


def without_credentials(text: str) -> str:
    """A text without the passwords and tokens of the URLs in it."""
    return re.sub(r"(https?://)[^/\s]+@|(://[^/:@\s]+):[^/\s]+@", lambda found: found[1] or f"{found[2]}@", text)


def without_secrets(text: str) -> str:
    """A text without the passwords of the URLs in it, and without the secrets that this process was given by its environment."""
    text = without_credentials(text)
    for secret in sorted(set(_secrets()), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _secrets() -> Iterator[str]:
    """Every secret in the environment, as it is and as an address would hold it."""
    for name, value in os.environ.items():
        given = [value] if SECRET_NAME.search(name) else []
        given += [found.partition(":")[2] or found for web, found in USER_INFO.findall(value) if web or ":" in found]
        for secret in given:
            if len(secret) >= SHORTEST:
                yield from {secret, quote(secret, safe=""), unquote(secret)}
