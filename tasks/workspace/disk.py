"""A disk that is full or may not be written to: no fault of the step, and worth a retry."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import LoraflowError, ServiceError

FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM})
FULL = "No space left on device"


@contextmanager
def disk_faults(folder: Path) -> Iterator[None]:
    """Tell a fault of the disk as one.

    Args:
        folder: where the work writes, for the message.

    Raises:
        ServiceError: the disk is full, broken or not to be written to.
    """
    try:
        yield
    except LoraflowError:
        raise
    except Exception as error:
        # Libraries in Rust and C++ raise errors of their own, with the system's words in them.
        if FULL not in str(error) and not (isinstance(error, OSError) and error.errno in FAULTS):
            raise
        place = getattr(error, "filename", None) or folder
        found = getattr(error, "strerror", None) or FULL
        raise ServiceError(str(place), found.lower(), "room and the right to write", "free space, or move LORAFLOW_HOME") from error
