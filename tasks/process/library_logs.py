"""Warnings of libraries that no reader of a task's log can act on."""

import logging
import warnings

REPEATED = ("bitsandbytes.autograd", "bitsandbytes.backends")
"""Loggers that are limited to errors. On a GPU the first warns in every 8-bit product whose input is not float16: thousands of lines
a step, since a model that is trained keeps its activations in float32. On a processor the second recommends a kernel from the Hub."""


def quiet_libraries() -> None:
    """Leave out deprecations inside the libraries, and what REPEATED loggers warn of."""
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    for name in REPEATED:
        logging.getLogger(name).setLevel(logging.ERROR)
