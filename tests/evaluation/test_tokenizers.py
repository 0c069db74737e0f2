"""The tokenizers of an evaluation: loaded once, shared by the models that read alike, and by no others."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import Evaluation
from tasks.errors import ContractError
from tasks.evaluation.tokenizers import Tokenizers
from tasks.model import tokenizer
from tasks.model.tokenizer import Tokens
from tasks.registry import tracking
from tasks.workspace.files import link_or_copy
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import tiny


class Counted:
    """How often each tokenizer is loaded, and each text is encoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loaded: Counter[str] = Counter()
        self.encoded: Counter[str] = Counter()
        load, encode = tokenizer._load, Tokens.encode

        def loads(folder: Path) -> Any:
            self.loaded[folder.name] += 1
            return load(folder)

        def encodes(tokens: Tokens, text: str) -> list[int]:
            self.encoded[text] += 1
            return encode(tokens, text)

        monkeypatch.setattr(tokenizer, "_load", loads)
        monkeypatch.setattr(Tokens, "encode", encodes)


@pytest.mark.trains
def test_an_evaluation_encodes_each_row_once_for_all_its_models(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = perform("evaluate", trained)
    perform("register", trained)
    tracking.client().set_registered_model_alias("tiny", "champion", "1")
    counted = Counted(monkeypatch)
    again = perform("evaluate", trained, 1)
    assert isinstance(first, Evaluation) and isinstance(again, Evaluation)
    assert again.champion == again.tuned == first.tuned and again.base == first.base
    assert counted.loaded == {"model": 2, "base": 1}, "the merged model's and the champion's folder bear one name"
    rows = [counted.encoded[f"Tweet: {text}\nSentiment:"] for text, _ in tiny.tweets(360)[-60:]]
    assert rows == [1] * 60, "tuned, adapter, base and champion read the same prompts"
    assert set(counted.encoded.values()) <= {1, 2}, "no text is encoded for each row or model anew"


def test_folders_that_read_alike_share_what_is_encoded(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link_or_copy(tiny_base, tmp_path / "copy")
    counted, tokenizers = Counted(monkeypatch), Tokenizers()
    one, other = tokenizers.of(tiny_base), tokenizers.of(tmp_path / "copy")
    assert tokenizers.of(tiny_base) is one is not other
    ids = one.encode("the lovely street")
    ids.append(7)
    assert other.encode("the lovely street") == Tokens(tiny_base).encode("the lovely street")
    assert counted.encoded["the lovely street"] == 2, "once shared, once by the plain tokenizer beside them"


def test_tokenizers_that_read_otherwise_share_nothing(tiny_base: Path, tmp_path: Path) -> None:
    """New tokens, and another normaliser in the file: the same text, other ids."""
    link_or_copy(tiny_base, tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["normalizer"] = {"type": "Lowercase"}
    file.unlink()
    file.write_text(json.dumps(content), encoding="utf-8")
    tokenizers, text = Tokenizers(), "THE <SH> street"
    found = [tokenizers.of(*given).encode(text) for given in ((tiny_base,), (tiny_base, ["<SH>"]), (tmp_path / "other",))]
    expected = [tokens.encode(text) for tokens in (Tokens(tiny_base), Tokens(tiny_base, ["<SH>"]), Tokens(tmp_path / "other"))]
    assert found == expected and len({tuple(ids) for ids in found}) == 3


def test_a_folder_without_a_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"no usable tokenizer \(.*\) \(expected: the model's own\)\. Fix: fetch or merge it again"):
        Tokenizers().of(tmp_path)
