"""fsspec's file systems by scheme: which package serves it, how it tries again, how its faults are told.

Address and credentials are the store's own variables (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, …) or what the machine was given.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from tasks.errors import LoraflowError, ServiceError, SettingsError
from tasks.secrets.redaction import in_one_line
from tasks.settings import header_value

LIBRARIES = frozenset({"adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google", "s3fs"})
"""Whose errors are the store's, whatever their type."""

ASIDES = ("aiobotocore.credentials", "botocore.configprovider", "botocore.credentials")
"""Loggers that tell of each client where its settings come from."""

SENT = ("AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN")
"""What S3 is sent in headers; the secret key only signs."""

READ_SECONDS = 60.0
"""How long S3 may be silent within an answer before it is asked again."""


def file_system(scheme: str) -> Any:
    """The fsspec file system of a scheme; another process, or other variables of the store, get their own.

    Raises:
        SettingsError: no package serves the scheme, or the store's credentials cannot be sent.
    """
    check_credentials(scheme)
    environment = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    return _file_system(scheme, os.getpid(), environment)


def check_credentials(scheme: str) -> None:
    """Raise where a store cannot be sent the credentials of its variables, as its client would in words of its own.

    Raises:
        SettingsError: a header cannot hold one of them.
    """
    for name in SENT if scheme in ("s3", "s3a") else ():
        header_value(name)


@lru_cache(maxsize=4)
def _file_system(scheme: str, process: int, environment: tuple[tuple[str, str], ...]) -> Any:
    what = f"{scheme}://"
    try:
        import fsspec
    except ImportError:
        fsspec = None
    if fsspec is None or (scheme in ("s3", "s3a") and find_spec("s3fs") is None):
        raise SettingsError(what, "its package is not installed", "s3fs", "pip install loraflow[s3]")
    try:
        kind = fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise SettingsError(what, f"its package is not installed ({error})", "one for fsspec", "install it") from None
    except ValueError:
        raise SettingsError(what, "no such scheme", "s3://, gs:// or another of fsspec's", "correct LORAFLOW_RUNS") from None
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme in ("s3", "s3a"):
        for name in ASIDES:
            logging.getLogger(name).setLevel(logging.WARNING)
        options["config_kwargs"] = {"read_timeout": READ_SECONDS, "retries": _retries()}
    return kind(**options)


def _retries() -> dict[str, Any]:
    """How botocore tries again where the environment does not say so itself: for about half a minute."""
    retries: dict[str, Any] = {} if "AWS_RETRY_MODE" in os.environ else {"mode": "standard"}
    return retries if "AWS_MAX_ATTEMPTS" in os.environ else retries | {"total_max_attempts": 8}


@contextmanager
def faults_told(where: str, *, writing: bool = False) -> Iterator[None]:
    """Tell a fault of the store as one.

    Args:
        where: what was asked for.
        writing: whether it is written; otherwise it is the asker's business that it is not there.

    Raises:
        FileNotFoundError: it is not there.
        SettingsError: there is no such bucket.
        ServiceError: the store does not answer, or not to us.
    """
    try:
        yield
    except LoraflowError:
        raise
    except FileNotFoundError as error:
        if not writing:
            raise
        raise SettingsError(where, "no such bucket", "one that is there", "create it, or correct LORAFLOW_RUNS") from error
    except Exception as error:
        if not isinstance(error, OSError) and not _of_a_library(error):
            raise
        told = error.__cause__ if error.__cause__ and _of_a_library(error.__cause__) else error  # s3fs puts less into its own
        words = in_one_line(told) or type(told).__name__
        if isinstance(error, PermissionError) or "Credential" in type(told).__name__:
            remedy = "give this process the store's credentials (AWS_…, or the pod's own role) and the right to read and write there"
            raise ServiceError(where, f"not allowed ({words})", "access", remedy) from None
        remedy = "look at the store and its address (AWS_ENDPOINT_URL); a retry goes on from what is whole"
        raise ServiceError(where, f"the store does not answer as it should ({words})", "an answer", remedy) from None


def _of_a_library(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in LIBRARIES
