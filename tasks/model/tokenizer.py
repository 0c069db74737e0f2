"""A tokenizer as transformers reads it from a model's folder; what a text spells like a control token stays text."""

import hashlib
import json
import os
import re
import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

from tasks.errors import RecipeError

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model", "vocab.json",
    "merges.txt", "chat_template.jinja",
)  # fmt: skip
"""What makes up a tokenizer, as the families of models here store it."""

BREAK = "\ufdd0"
"""Parts a text inside of what would be a control token. Unicode keeps this code point for internal use; no text holds it."""


def without_torch() -> None:
    """Let transformers read configurations and tokenizers without torch: a third of the memory and half of the time.

    For a process that loads no model. Call it before transformers is imported.
    """
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # an import of it fails, as on a machine without it
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # transformers warns that it found no torch


class Tokens:
    """The tokenizer in a folder, as `AutoTokenizer` loads it.

    Args:
        folder: folder of the model.
        new_tokens: special tokens to add.

    Raises:
        RecipeError: transformers loads no fast tokenizer from the folder, or the tokenizer has no end token.
    """

    def __init__(self, folder: Path, new_tokens: Sequence[str] = ()) -> None:
        from tokenizers import AddedToken

        self.folder = folder
        self._tokenizer = _load(folder)
        self._tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in new_tokens], special_tokens=True)
        self._fast = self._tokenizer.backend_tokenizer
        self._fast.no_padding()
        self._fast.no_truncation()
        self._spellings: dict[str, _Spelling] = {}
        if self._tokenizer.eos_token_id is None:
            raise RecipeError(str(folder), "the tokenizer has no end token", "an eos_token", "choose another base model")
        self.eos_id: int = self._tokenizer.eos_token_id
        """Id of the end token."""

    @cached_property
    def bos_id(self) -> int | None:
        """Id of the token that the tokenizer puts before a text; None where it puts none."""
        whole, bare = self._fast.encode("a").ids, self._fast.encode("a", add_special_tokens=False).ids
        return int(whole[0]) if whole[0] != bare[0] else None

    @cached_property
    def pad_id(self) -> int:
        """Id of the padding token, or of the end token where the model has no row for one (padding is masked and carries no loss)."""
        found, rows = self._tokenizer.pad_token_id, self.vocabulary
        return self.eos_id if found is None or (rows is not None and found >= rows) else int(found)

    @cached_property
    def end_ids(self) -> list[int]:
        """Ids of the tokens that end what the model writes: the tokenizer's end token first, then those of its generation settings.

        Without such settings those of its configuration count, as for transformers' `generate`.
        """
        named = self._json("generation_config.json").get("eos_token_id")
        if named is None and (self.folder / "config.json").exists():
            from transformers import AutoConfig

            named = AutoConfig.from_pretrained(self.folder, trust_remote_code=False, local_files_only=True).get_text_config().eos_token_id
        others = {named} if isinstance(named, int) else set(named or ())
        return [self.eos_id, *sorted(others - {self.eos_id})]

    @cached_property
    def vocabulary(self) -> int | None:
        """Rows of the embedding, by the model's configuration; None where there is none, as beside an adapter."""
        config = self._json("config.json")
        found = (config.get("text_config") or config).get("vocab_size", config.get("vocab_size"))
        return None if found is None else int(found)

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """The special tokens by their names (`bos_token`, …), as chat templates ask for them."""
        return {name: str(token) for name, token in self._tokenizer.special_tokens_map.items() if isinstance(token, str)}

    @cached_property
    def added_tokens(self) -> dict[str, int]:
        """Tokens outside the ordinary vocabulary, special or not, to their ids."""
        return {token.content: place for place, token in self._fast.get_added_tokens_decoder().items()}

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of all special tokens, those without a name too."""
        added = self._fast.get_added_tokens_decoder()
        return frozenset(place for place, token in added.items() if token.special) | frozenset(self._tokenizer.all_special_ids)

    @cached_property
    def chat_template(self) -> str | None:
        """The chat template (Jinja) in the folder, the default one of several; None where there is none."""
        found = self._tokenizer.chat_template
        return found.get("default") if isinstance(found, dict) else found

    def ids_by_token(self) -> dict[str, int]:
        """The whole vocabulary: every token to its id."""
        return dict(self._fast.get_vocab(with_added_tokens=True))

    def control_tokens(self, template: str = "") -> tuple[str, ...]:
        """Tokens that steer a model, so that no text may become one.

        They are the special tokens, those written as `<|name|>`, and the added tokens that the chat template or another template
        writes. White space is none of them unless it has a name (`eos_token`, …): Gemma has tokens for several line ends.
        """
        written, named = template + (self.chat_template or ""), frozenset(self._tokenizer.all_special_ids)

        def steers(token: str, place: int) -> bool:
            return place in self.special_ids or token in written or re.fullmatch(r"<\|.+\|>", token) is not None

        return tuple(token for token, place in self.added_tokens.items() if place in named or (token.strip() and steers(token, place)))

    def literal(self, text: str, template: str = "") -> str:
        """A text, marked so that `encode` reads no control token in it.

        Args:
            text: what somebody wrote. Its words stay as they are.
            template: the prompt's template that the text goes into, at `{text}` where it names the place.
        """
        spelling = self._spelling(template)
        marked = spelling.longer.sub(lambda found: found[1] + BREAK, spelling.single.sub(" ", text.replace(BREAK, "")))
        return f"{spelling.opening}{marked}{spelling.closing}"

    def save(self, folder: Path) -> None:
        """Write the tokenizer into a folder, the new tokens among the others, so that it reads there as here.

        transformers 5.23 does not save the settings that a class keeps to itself, as Llama's keeps `legacy`; they are added.
        """
        self._tokenizer.save_pretrained(folder)
        file = folder / "tokenizer_config.json"
        given, saved = self._json(file.name), dict(json.loads(file.read_text(encoding="utf-8")))
        lost = {name: given[name] for name in signature(type(self._tokenizer).__init__).parameters if name in given and name not in saved}
        if lost:
            file.write_text(json.dumps(saved | lost, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def reading(self) -> Hashable:
        """All that decides which ids `encode` gives: two tokenizers for which it is equal give the same ids for any text.

        Vocabulary and merges stand for themselves in the files (written out anew, large ones take seconds); what transformers made of
        the rest is asked of the tokenizer.
        """
        contents = [(self.folder / name).read_bytes() if (self.folder / name).exists() else b"" for name in TOKENIZER_FILES]
        files = tuple(hashlib.sha256(content).hexdigest() for content in contents)
        steps = _state(self._fast.normalizer), _state(self._fast.pre_tokenizer)
        return type(self._tokenizer), files, steps, frozenset(self.added_tokens.items()), self._control_ids

    def id_of(self, token: str) -> int | None:
        """Id of a token as it stands in the vocabulary; None where it does not."""
        found: int | None = self._fast.token_to_id(token)
        return found

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, no special tokens added. Control tokens in it count, but for what `literal` has marked."""
        first, *others = text.split(BREAK)
        return [*self._ids(first), *(number for piece in others for number in self._continued(piece))]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens shown."""
        return str(self._fast.decode(list(ids), skip_special_tokens=False))

    def _ids(self, text: str) -> list[int]:
        """Token ids of a piece of text, none of them a control token that the piece does not spell.

        A normaliser may turn other characters into the words of a control token (full-width brackets, say); they are read in two halves.
        """
        found = self._fast.encode(text, add_special_tokens=False)
        if self._control_ids.isdisjoint(found.ids):
            return list(found.ids)
        for number, (start, end) in zip(found.ids, found.offsets, strict=True):
            if number in self._control_ids and self._control_ids_spelt[number] not in text[start:end] and start < end:
                middle = (start + end) // 2
                return [*self._ids(text[:middle]), *self._continued(text[max(middle, start + 1) :])]
        return list(found.ids)

    def _continued(self, piece: str) -> list[int]:
        """Token ids of a piece that is not the first of its text: some tokenizers put a blank before the first."""
        opened, newline = self._ids(f"\n{piece}"), self._newline
        return opened[len(newline) :] if opened[: len(newline)] == newline else self._ids(piece)

    @cached_property
    def _newline(self) -> list[int]:
        return list(self._fast.encode("\n", add_special_tokens=False).ids)

    @cached_property
    def _control_ids_spelt(self) -> dict[int, str]:
        return {place: token for token, place in self.added_tokens.items()}

    @cached_property
    def _control_ids(self) -> frozenset[int]:
        """Ids that text alone must not give; the unknown token is no control token where it stands for characters without one."""
        return (self.special_ids & frozenset(self._control_ids_spelt)) - {self._tokenizer.unk_token_id}

    def _spelling(self, template: str) -> "_Spelling":
        if template not in self._spellings:
            self._spellings[template] = _Spelling.of(self.control_tokens(template), template)
        return self._spellings[template]

    def _json(self, name: str) -> dict[str, Any]:
        file = self.folder / name
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


@dataclass(frozen=True)
class _Spelling:
    """How a text that goes into a template could spell a control token."""

    single: re.Pattern[str]
    """A control token of one character."""
    longer: re.Pattern[str]
    """The first character of a longer one."""
    opening: str
    """BREAK where the template before the text ends as a control token begins, otherwise nothing."""
    closing: str
    """BREAK where the template after the text begins as one ends."""

    @classmethod
    def of(cls, tokens: Sequence[str], template: str) -> "_Spelling":
        single = "|".join(re.escape(token) for token in tokens if len(token) == 1)
        longer = "|".join(re.escape(token) for token in tokens if len(token) > 1)
        before, named, after = template.partition("{text}")
        halves = [(token[:place], token[place:]) for token in tokens for place in range(1, len(token))] if named else []
        return cls(
            re.compile(single or "(?!)"),
            re.compile(f"(?={longer or '(?!)'})(.)", re.DOTALL),
            BREAK if any(before.endswith(first) for first, _ in halves) else "",
            BREAK if any(after.startswith(last) for _, last in halves) else "",
        )


def _state(step: Any) -> Hashable:
    """The settings of a normaliser or pre-tokeniser; one that is written in Python tells none and equals no other."""
    try:
        return None if step is None else bytes(step.__getstate__())
    except Exception:  # tokenizers raises nothing narrower
        return object()


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers and tokenizers raise nothing narrower
        detail = " ".join(str(error).split())[:300]
        raise RecipeError(
            str(folder), f"transformers loads no tokenizer from it ({detail})", "a fast tokenizer",
            "choose a base model that ships tokenizer.json",
        ) from None  # fmt: skip
    if not hasattr(found, "backend_tokenizer"):
        raise RecipeError(
            str(folder), f"its tokenizer is the slow {type(found).__name__}", "a fast tokenizer",
            "choose a base model that ships tokenizer.json",
        )  # fmt: skip
    return found
