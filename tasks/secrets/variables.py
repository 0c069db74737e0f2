"""Which environment variables hold secrets, and which part of a value is the secret. Imports nothing from the project.

A secret is the value of a variable with a secret's name, a password in an address, a credential in an HTTP header, or a secret
entry of JSON, YAML or a connection string, in whichever variable it stands.
"""

import base64
import binascii
import json
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, unquote_plus

WORDS = "TOKEN|PASSWORD|PASSWD|PASSPHRASE|PASSCODE|SECRET|KEY|CREDENTIALS?|APIKEY|COOKIE|AUTH|AUTHORIZATION|JWT|DSN|PAT|SAS|SIG|SIGNATURE"

SECRET_NAME = re.compile(
    rf"((^|[_.-])({WORDS})|[a-z](KEY|TOKEN|SECRET|PASSWORD|PASSWD)|(^|[_.-])PASS|[_.-](PWD|PW))([_.-]?\d+|[_.-](DATA|VALUE|BASE64|B64))?$",
    re.IGNORECASE,
)
"""Names whose value is a secret: HF_TOKEN, AWS_SECRET_ACCESS_KEY, PGPASSWORD, accountKey, client-key-data. PWD alone is a folder."""

SENT_WITH_SECRETS = ("AIRFLOW_", "AWS_", "AZURE_", "GIT_CONFIG_", "GOOGLE_", "HF_", "LORAFLOW_", "MLFLOW_", "PIP_")
"""Variables of services that need a secret begin like this. User names and addresses often come from the same file as the secret."""

USER_INFO = re.compile(r"(https?)?://([^/\s]+|[^/\s:@]*:(?!\d+/)\S+)@", re.IGNORECASE)
"""Name and password in an address, or a token in place of both; a slash in a password should be quoted, and may not be."""

PAIR = re.compile(r"([A-Za-z_][\w.-]*)[\"']?[ \t]*[=:][ \t]*(\"[^\"\n]*\"|'[^'\n]*'|[^\s\"'&;,]+)")
"""An entry of a connection string, a query, a header or a YAML file."""

HEADER = re.compile(r"\b(basic|bearer|token)\s+([\w.~+/=-]+)", re.IGNORECASE)
"""A credential in an `Authorization` header."""

FILE_NAME = re.compile(r"\.(cer|cfg|conf|crt|env|ini|json|key|p12|pem|pfx|txt|ya?ml)$", re.IGNORECASE)


def secrets() -> frozenset[str]:
    """Every secret in this process's environment, without the white space around it."""
    return frozenset(secret for name, value in os.environ.items() for secret in _secrets_of(name, value))


def strip_secrets() -> None:
    """Remove the white space around secrets, and around what is sent with them, from this process's environment.

    A Kubernetes secret made from a file ends with the file's line end, which no HTTP header may hold. Values of several lines stay
    as they are: a private key needs its last line end.
    """
    for name, value in list(os.environ.items()):
        plain = value.strip()
        if plain != value and "\n" not in plain and (name.startswith(SENT_WITH_SECRETS) or _secrets_of(name, value)):
            os.environ[name] = plain


@lru_cache(maxsize=1024)
def _secrets_of(name: str, value: str) -> frozenset[str]:
    return frozenset(secret for found in _found(name, value.strip()) if (secret := found.strip()))


def _found(name: str, value: str) -> Iterator[str]:
    named = bool(SECRET_NAME.search(name))
    if not value or (named and _is_path(value)):
        return
    if (document := _json(value)) is not None:
        inside = list(_in_document(document))
        yield from inside or (_leaves(document) if named else ())
        return
    in_header = named or "authorization" in value.lower()
    inside = [*_in_addresses(value), *(_in_headers(value) if in_header else ()), *_in_pairs(value)]
    yield from inside
    if named and not (inside and "://" in value):
        yield re.sub(r"^https?://[^/]*", "", value)  # of a web hook's address the path is the secret


def _is_path(value: str) -> bool:
    """Whether a variable names the file that holds the secret."""
    return os.path.isabs(os.path.expanduser(value)) and (bool(FILE_NAME.search(value)) or os.path.exists(os.path.expanduser(value)))


def _json(value: str) -> Any:
    """A JSON object or list; None where the value is none."""
    if value[:1] not in ("{", "["):
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _in_document(document: Any) -> Iterator[str]:
    """Secret entries of a JSON document, which may hold further documents and addresses as texts."""
    items = document.items() if isinstance(document, dict) else [("", one) for one in document] if isinstance(document, list) else []
    for key, value in items:
        if isinstance(value, str):
            yield from _secrets_of(str(key), value)
        elif SECRET_NAME.search(str(key)):
            yield from _leaves(value)
        else:
            yield from _in_document(value)


def _leaves(document: Any) -> Iterator[str]:
    if isinstance(document, str):
        yield document
    elif isinstance(document, dict | list):
        for value in document.values() if isinstance(document, dict) else document:
            yield from _leaves(value)


def _in_addresses(value: str) -> Iterator[str]:
    for web, found in USER_INFO.findall(value):
        if web or ":" in found:
            secret = found.partition(":")[2] or found
            yield from (secret, unquote(secret))


def _in_headers(value: str) -> Iterator[str]:
    for scheme, credential in HEADER.findall(value):
        yield credential
        if scheme.lower() == "basic":
            try:
                yield base64.b64decode(credential, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                continue


def _in_pairs(value: str) -> Iterator[str]:
    for key, given in PAIR.findall(re.sub(r"\w+://[^/\s?#]*", " ", value)):  # name and port of a host are no entry
        secret = given[1:-1] if given[0] in "\"'" else given
        if SECRET_NAME.search(key):
            yield from (secret, unquote(secret), unquote_plus(secret))
        elif key == "__extra__":  # of an Airflow connection given as an address: JSON, quoted
            yield from _secrets_of(key, unquote_plus(secret))
