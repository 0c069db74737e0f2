"""Characters that a place cannot hold, written out by their Unicode names: 👎 becomes `:thumbs down sign:`."""

import unicodedata
from collections.abc import Callable


def spelled_out(text: str, holds: Callable[[str], bool]) -> str:
    """A text that still differs from every other one, since a name stands between colons and a colon is written out too.

    Args:
        text: to be written.
        holds: whether the place can hold a character as it is.
    """
    return "".join(letter if letter != ":" and holds(letter) else written_out(letter) for letter in text)


def written_out(letter: str) -> str:
    """The Unicode name of a character between colons; of one without a name its number."""
    return f":{unicodedata.name(letter, f'U{ord(letter):X}').lower()}:"  # no name holds a colon
