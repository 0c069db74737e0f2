"""Tokenizer files as the families of the Hub have them, around a small vocabulary that is learned here.

The learning gives pieces and merges alone. What surrounds them is written key by key, as it stands in the files of the family.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.support import tiny
from tests.support.hub_texts import sentences

Json = dict[str, Any]

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
BLANK = "\u2581"
"""What SentencePiece writes for a blank."""

LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = LLAMA_3.replace("{1,3}", "")


@dataclass(frozen=True)
class Vocabulary:
    """Pieces in the order of their ids, and merges."""

    pieces: list[str]
    merges: list[list[str]]

    @property
    def ids(self) -> dict[str, int]:
        return {piece: place for place, piece in enumerate(self.pieces)}


Made = tuple[Json, Vocabulary]
"""What `tokenizer.json` holds; and what `vocab.json` and `merges.txt` hold."""


def added(content: str, **flags: bool) -> Json:
    """A token of its own as `tokenizer.json` and `added_tokens_decoder` describe it; special unless told otherwise."""
    names = ("single_word", "lstrip", "rstrip", "normalized")
    return {"content": content, **{name: flags.get(name, False) for name in names}, "special": flags.get("special", True)}


def typed(content: str) -> Json:
    """The same in a `tokenizer_config.json` of 2021."""
    names = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    return {"content": content, **names, "__type": "AddedToken"}


def corpus() -> list[str]:
    """What the vocabularies are learned from: all languages, and the rows that tests train on."""
    labels = ("positive", "negative", "neutral", "Positive", "Negative")
    rows = [f"Tweet: {text}\nSentiment: {label} Act: Result: {label}" for text, _ in tiny.tweets(60) for label in labels]
    return [*rows, *sentences(400, seed=1)]


@cache
def byte_pieces(size: int = 700) -> Vocabulary:
    """Pieces of bytes, as GPT-2 has them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    return _learned(tokenizer)


@cache
def sentence_piece(first: tuple[str, ...], size: int = 400) -> Vocabulary:
    """Pieces of letters, as Llama and Gemma have them: control tokens and bytes first, then what was learned."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(BLANK, "merged_with_next")
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=size, initial_alphabet=["\n", BLANK], show_progress=False))
    found = _learned(tokenizer)
    blanks = [[BLANK * count, BLANK] for count in (1, 2, 3)]
    pieces = [*first, *BYTES, *(left + right for left, right in blanks), *found.pieces]
    return Vocabulary(list(dict.fromkeys(pieces)), [*blanks, *(pair for pair in found.merges if pair not in blanks)])


@cache
def unigram_pieces(size: int = 500) -> list[tuple[str, float]]:
    """Pieces and their log-probabilities, as XGLM has them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=BLANK, prepend_scheme="always")
    ascii_ = [chr(code) for code in range(33, 127)]
    trainer = trainers.UnigramTrainer(vocab_size=size, unk_token="<unk>", initial_alphabet=ascii_, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    return [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"] if piece != "<unk>"]


def _learned(tokenizer: Any) -> Vocabulary:
    model = json.loads(tokenizer.to_str())["model"]
    return Vocabulary(sorted(model["vocab"], key=model["vocab"].__getitem__), [list(pair) for pair in model["merges"]])


# ---------------------------------------------------------------------------------------------------- parts of tokenizer.json


def replace(pattern: str, content: str) -> Json:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def sequence(key: str, *parts: Json) -> Json:
    return {"type": "Sequence", key: list(parts)}


def bytes_(**changes: Any) -> Json:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True} | changes


def isolated(pattern: str) -> Json:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def begins_with(token: str, number: int) -> Json:
    """The post-processor that puts a token before a text."""
    first = {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    second = {"SpecialToken": {"id": token, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}
    tokens = {token: {"id": token, "ids": [number], "tokens": [token]}}
    return {"type": "TemplateProcessing", "single": [*first], "pair": [*first, *second], "special_tokens": tokens}


def bpe(vocabulary: Vocabulary, *, old: bool = False, **changes: Any) -> Json:
    """The model; files before tokenizers 0.20 write a merge as one text, and know no `ignore_merges`."""
    merges = [" ".join(pair) for pair in vocabulary.merges] if old else vocabulary.merges
    plain: Json = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    plain |= {"fuse_unk": False, "byte_fallback": False} | ({} if old else {"ignore_merges": False})
    return plain | changes | {"vocab": vocabulary.ids, "merges": merges}


def tokenizer_json(model: Json, tokens: Sequence[tuple[int, Json]], **parts: Json | None) -> Json:
    """The whole file.

    Args:
        model: pieces and merges.
        tokens: id and description of each token that is looked for in a text before the model sees it.
        parts: `normalizer`, `pre_tokenizer`, `post_processor`, `decoder`.
    """
    found: Json = {"version": "1.0", "truncation": None, "padding": None}
    found["added_tokens"] = [{"id": number, **token} for number, token in tokens]
    return found | {name: parts.get(name) for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder")} | {"model": model}


# -------------------------------------------------------------------------------------------------------- families' tokenizers


def gemma(*more: str, listed: bool, old: bool = False, beyond: tuple[str, ...] = ()) -> Callable[[], Made]:
    """Gemma's tokenizer: control tokens, blanks and line ends first.

    Args:
        more: the control tokens after `<unk>`.
        listed: whether every one of these is an added token, as since Gemma 2; otherwise those of turns alone.
        old: whether a merge is one text.
        beyond: added tokens that the model's vocabulary lacks.
    """

    def make() -> Made:
        first = ("<pad>", "<eos>", "<bos>", "<unk>", *more)
        words = sentence_piece((*first, "\n", "\n\n"))
        vocabulary = Vocabulary(words.pieces, [["\n", "\n"], *words.merges])
        plain = [*more, "\n\n", BLANK * 2, BLANK * 3] if listed else []
        special = [*first[:4], *(token for token in more if "turn" in token or "image" in token)]
        tokens = {token: added(token, special=False) for token in plain} | {token: added(token) for token in special}
        numbered = sorted((vocabulary.ids[token], entry) for token, entry in tokens.items())
        numbered += [(len(vocabulary.pieces) + place, added(token)) for place, token in enumerate(beyond)]
        return tokenizer_json(
            bpe(vocabulary, old=old, unk_token="<unk>", fuse_unk=True, byte_fallback=True),
            numbered,
            normalizer=replace(" ", BLANK),
            pre_tokenizer={"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
            post_processor=begins_with("<bos>", 2),
            decoder=sequence("decoders", replace(BLANK, " "), {"type": "ByteFallback"}, {"type": "Fuse"}),
        ), vocabulary

    return make


def llama(*more: str, after: tuple[Json, ...] = (), begin: bool = True) -> Callable[[], Made]:
    """Llama 2's tokenizer, which puts a blank before a text.

    Args:
        more: control tokens after `</s>`.
        after: added tokens behind the vocabulary.
        begin: whether a text begins with `<s>`.
    """

    def make() -> Made:
        first = ("<unk>", "<s>", "</s>", *more)
        vocabulary = sentence_piece(first)
        behind = [(len(vocabulary.pieces) + place, entry) for place, entry in enumerate(after)]
        plain = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {}}
        plain["pair"] = [*plain["single"], {"Sequence": {"id": "B", "type_id": 1}}]
        return tokenizer_json(
            bpe(vocabulary, old=True, unk_token="<unk>", fuse_unk=True, byte_fallback=True),
            [*((place, added(token)) for place, token in enumerate(first)), *behind],
            normalizer=sequence("normalizers", {"type": "Prepend", "prepend": BLANK}, replace(" ", BLANK)),
            post_processor=begins_with("<s>", 1) if begin else plain,
            decoder=sequence(
                "decoders", replace(BLANK, " "), {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ),
        ), vocabulary  # fmt: skip

    return make


def byte_level(
    *after: Json, first: tuple[str, ...] = (), known: bool = False, old: bool = True, split: str = "", begin: str = "", **more: Json
) -> Callable[[], Made]:
    """A tokenizer of bytes, as GPT-2 and its descendants have it.

    Args:
        after: added tokens behind the vocabulary.
        first: control tokens before it.
        known: whether the tokens behind stand in the model's vocabulary too.
        old: whether a merge is one text.
        split: expression that tells words apart; GPT-2's where empty.
        begin: what a text begins with.
        more: parts of the file.
    """

    def make() -> Made:
        words = byte_pieces()
        plain = [*first, *words.pieces]
        tokens = [(place, added(token)) for place, token in enumerate(first)]
        tokens += [(len(plain) + place, entry) for place, entry in enumerate(after)]
        vocabulary = Vocabulary([*plain, *(entry["content"] for entry in after)] if known else plain, words.merges)
        looks = sequence("pretokenizers", isolated(split), bytes_(use_regex=False)) if split else bytes_()
        post = bytes_(trim_offsets=False)
        if begin:
            number = next(number for number, entry in tokens if entry["content"] == begin)
            post = sequence("processors", post, begins_with(begin, number))
        empty = {} if split else {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
        model = bpe(vocabulary, old=old, **empty, **({} if old else {"ignore_merges": bool(begin)}))
        surrounding = {"pre_tokenizer": looks, "post_processor": post, "decoder": bytes_(), **more}
        return tokenizer_json(model, tokens, **surrounding), vocabulary

    return make


def xglm() -> Made:
    """XGLM's tokenizer."""
    first, words = ("<s>", "<pad>", "</s>", "<unk>"), unigram_pieces()
    made_up = [f"<madeupword{place}>" for place in range(7)]
    pieces = [*((token, 0.0) for token in first), *words, *((token, 0.0) for token in made_up)]
    vocabulary = Vocabulary([piece for piece, _ in pieces], [])
    begin = {"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    between = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    special = {token: {"id": token, "ids": [vocabulary.ids[token]], "tokens": [token]} for token in ("<s>", "</s>")}
    meta = {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "always", "split": True}
    return tokenizer_json(
        {"type": "Unigram", "unk_id": 3, "vocab": [list(pair) for pair in pieces], "byte_fallback": False},
        [(vocabulary.ids[token], added(token)) for token in (*first, *made_up)],
        normalizer=sequence("normalizers", {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}),
        pre_tokenizer=meta,
        post_processor={
            "type": "TemplateProcessing", "single": [*begin], "pair": [*begin, between, between, begin[1]], "special_tokens": special,
        },
        decoder=meta,
    ), vocabulary  # fmt: skip
