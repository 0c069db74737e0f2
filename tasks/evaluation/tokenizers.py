"""The tokenizers of the models that an evaluation scores: each is loaded once, and no text is encoded twice by the same one."""

from array import array
from collections.abc import Hashable, Sequence
from pathlib import Path

from tasks.errors import ContractError
from tasks.model.tokenizer import Tokens
from tasks.secrets.redaction import in_one_line

Encoded = dict[str, "array[int]"]
"""Texts to their token ids, four bytes each."""


class Tokenizers:
    """Loads tokenizers, and lets those that encode alike share what they encoded, whatever folders they come from."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[Path, tuple[str, ...]], SharedTokens] = {}
        self._encoded: dict[Hashable, Encoded] = {}

    def of(self, folder: Path, new_tokens: Sequence[str] = ()) -> Tokens:
        """The tokenizer in a model's folder, with special tokens added.

        Raises:
            ContractError: the folder holds no tokenizer that works.
        """
        key = folder, tuple(new_tokens)
        if key not in self._loaded:
            try:
                tokens = SharedTokens(folder, new_tokens, self._encoded)
                tokens.encode("a")
            except Exception as error:  # the library raises a bare Exception for a file that it cannot read
                found = f"no usable tokenizer ({in_one_line(error)})"
                raise ContractError(str(folder), found, "the model's own", "fetch or merge it again") from None
            self._loaded[key] = tokens
        return self._loaded[key]


class SharedTokens(Tokens):
    """A tokenizer that looks up a text that it, or one that encodes alike, has encoded before.

    Args:
        folder: folder of the model.
        new_tokens: special tokens to add.
        encoded: `Tokens.reading` to what was encoded so far; this one adds to it.
    """

    def __init__(self, folder: Path, new_tokens: Sequence[str], encoded: dict[Hashable, Encoded]) -> None:
        super().__init__(folder, new_tokens)
        self._encoded = encoded.setdefault(self.reading(), {})

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, as `Tokens.encode` gives them."""
        if text not in self._encoded:
            self._encoded[text] = array("I", super().encode(text))
        return list(self._encoded[text])
