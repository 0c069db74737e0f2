"""A tokenizer read from a model's folder without torch: what `download` checks labels with, and all kinds encode with."""

import json
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.errors import RecipeError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model", "chat_template.jinja")
"""What makes up a tokenizer; the first holds the vocabulary."""


class Tokens:
    """The fast tokenizer in a folder (`tokenizer.json`, special tokens named in `tokenizer_config.json`).

    Args:
        folder: folder of the base model.
        new_tokens: special tokens to know besides; those that it knows already stay as they are.

    Raises:
        RecipeError: the folder holds no fast tokenizer, or it names no end token.
    """

    def __init__(self, folder: Path, new_tokens: Sequence[str] = ()) -> None:
        self.folder = folder
        file = folder / "tokenizer.json"
        if not file.exists():
            raise RecipeError(str(folder), "no tokenizer.json", "a fast tokenizer expected", "choose a base model that ships one")
        from tokenizers import AddedToken, Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            raise RecipeError(str(file), f"not readable ({error})", "a fast tokenizer expected", "fetch the base model again") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in new_tokens])
        end = self._special("eos_token")
        if end is None:
            raise RecipeError(str(folder), "the tokenizer names no eos_token", "an end token expected", "choose another base model")
        self.eos_id: int = end
        """Id of the end token."""

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
    def pad_id(self) -> int:
        """Id of the padding token; the end token's where there is none (padding is masked, and never carries loss)."""
        found = self._special("pad_token")
        return self.eos_id if found is None else found

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """The special tokens that the folder names (`bos_token`, …), as chat templates ask for them."""
        named = {name: token["content"] if isinstance(token, dict) else token for name, token in self.config.items()}
        return {name: token for name, token in named.items() if name.endswith("_token") and isinstance(token, str)}

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of all special tokens, those without a name too."""
        return frozenset(place for place, token in self._tokenizer.get_added_tokens_decoder().items() if token.special)

    @cached_property
    def chat_template(self) -> str | None:
        """The chat template (Jinja) in the folder, the default one of several; None where there is none."""
        file = self.folder / "chat_template.jinja"
        if file.exists():
            return file.read_text(encoding="utf-8")
        found = self.config.get("chat_template")
        if isinstance(found, list):
            found = next((each["template"] for each in found if each["name"] == "default"), None)
        return found

    def save(self, folder: Path) -> None:
        """Write the tokenizer and what belongs to it into a folder, the new tokens among the others."""
        for name in TOKENIZER_FILES:
            if (self.folder / name).exists():
                shutil.copyfile(self.folder / name, folder / name)
        self._tokenizer.save(str(folder / TOKENIZER_FILES[0]))

    def id_of(self, token: str) -> int | None:
        """Id of a token as it stands in the vocabulary; None where it does not."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, no special tokens added."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens shown."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def _special(self, name: str) -> int | None:
        text = self.special_tokens.get(name)
        return None if text is None else self._tokenizer.token_to_id(text)
