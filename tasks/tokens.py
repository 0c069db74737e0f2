"""A tokenizer read from a model's folder without torch: what `download` checks labels with, and all kinds encode with."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.errors import RecipeError


class Tokens:
    """The fast tokenizer in a folder (`tokenizer.json`, special tokens named in `tokenizer_config.json`).

    Args:
        folder: folder of the base model.

    Raises:
        RecipeError: the folder holds no fast tokenizer, or it names no end token.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        file = folder / "tokenizer.json"
        if not file.exists():
            raise RecipeError(str(folder), "no tokenizer.json", "a fast tokenizer expected", "choose a base model that ships one")
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            raise RecipeError(str(file), f"not readable ({error})", "a fast tokenizer expected", "fetch the base model again") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    @cached_property
    def config(self) -> dict[str, Any]:
        """`tokenizer_config.json`, empty where there is none."""
        file = self.folder / "tokenizer_config.json"
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}

    @cached_property
    def bos_id(self) -> int | None:
        """Id of the beginning token, None where the tokenizer adds none to a text."""
        first = self._tokenizer.encode("a").ids[0]
        return first if first == self._special("bos_token") else None

    @cached_property
    def eos_id(self) -> int:
        """Id of the end token."""
        found = self._special("eos_token")
        if found is None:
            raise RecipeError(str(self.folder), "the tokenizer names no eos_token", "an end token expected", "choose another base model")
        return found

    @cached_property
    def pad_id(self) -> int:
        """Id of the padding token; the end token's where there is none (padding is masked, and never carries loss)."""
        found = self._special("pad_token")
        return self.eos_id if found is None else found

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, no special tokens added."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens shown."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def _special(self, name: str) -> int | None:
        token = self.config.get(name)
        text = token["content"] if isinstance(token, dict) else token
        return None if text is None else self._tokenizer.token_to_id(text)
