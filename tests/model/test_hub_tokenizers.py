"""`Tokens` reads the tokenizers of all families as transformers' `AutoTokenizer` does, with torch and without, and saves them so."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tasks.model.tokenizer import Tokens
from tasks.settings import CHECKOUT
from tests.support.hub_families import FAMILIES
from tests.support.hub_repositories import write
from tests.support.hub_texts import texts

REAL = {
    "gemma3": {"model_type": "gemma3_text", "vocab_size": 262_144, "eos_token_id": [1, 106]},
    "llama2": {"model_type": "llama", "vocab_size": 32_000, "eos_token_id": 2},
    "qwen3": {"model_type": "qwen3", "vocab_size": 151_936, "eos_token_id": 151_645},
}
"""Real tokenizers beside the mirror, to what counts in the configurations that they come with."""
ALL = [*FAMILIES, *(f"real {name}" for name in REAL)]
RARE = {"hermes", "neox", "marked", "opt", "xglm"}
READS = (
    *("tasks/model", "requirements.lock", "tests/support/hub_families.py", "tests/support/hub_tokenizers.py"),
    *("tests/support/hub_configs.py", "tests/support/hub_templates.py", "tests/support/hub_texts.py"),
)
NEW = ("<SH>", "<EH>")
Facts = dict[str, Any]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with tokenizer and configuration: every family, and what real files there are."""
    place = tmp_path_factory.mktemp("tokenizers")
    found = {name: write(family, place / name, weights=False) for name, family in FAMILIES.items()}
    mirror = os.environ.get("LORAFLOW_MIRROR")
    for name, config in REAL.items():
        source = Path(mirror or place / "none").parent / "tokenizers" / name
        if source.is_dir():
            folder = found[f"real {name}"] = place / f"real {name}"
            folder.mkdir()
            shutil.copyfile(source / "tokenizer_config.json", folder / "tokenizer_config.json")
            (folder / "tokenizer.json").write_bytes(gzip.decompress((source / "tokenizer.json.gz").read_bytes()))
            (folder / "config.json").write_text(json.dumps(config))
    return found


def each(*cases: Any) -> list[Any]:
    """Cases as parameters, with the family's name or begun by it; rare families are looked at where they may come out otherwise."""
    marks = pytest.mark.guards(*READS)
    return [pytest.param(*case, marks=marks) if case[0] in RARE else pytest.param(*case) for case in cases]


@pytest.fixture(params=each(*((name,) for name in ALL)))
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    if request.param not in folders:
        pytest.skip(f"no tokenizers/{request.param.removeprefix('real ')} beside LORAFLOW_MIRROR")
    return folders[request.param]


def loaded(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def facts_by_transformers(folder: Path) -> Facts:
    """What `AutoTokenizer` and `GenerationConfig` say of a folder."""
    from transformers import AutoConfig, GenerationConfig

    tokenizer = loaded(folder)
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    if (folder / "generation_config.json").exists():
        ends = GenerationConfig.from_pretrained(folder).eos_token_id
    else:
        ends = GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder)).eos_token_id
    whole, bare = tokenizer.encode("a"), tokenizer.encode("a", add_special_tokens=False)
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    pad = tokenizer.pad_token_id
    return {
        "named": {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)},
        "special": sorted(added | set(tokenizer.all_special_ids)),
        "begin": whole[0] if whole != bare else None,
        "end": tokenizer.eos_token_id,
        "pad": tokenizer.eos_token_id if pad is None or pad >= rows else pad,
        "ends": sorted({tokenizer.eos_token_id, *([ends] if isinstance(ends, int) else ends or [])}),
        "template": tokenizer.get_chat_template() if tokenizer.chat_template else None,
        "texts": (encoded := [tokenizer.encode(text, add_special_tokens=False) for text in asked(folder)]),
        "decoded": [tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in encoded],
    }


@cache
def facts_by_tokens(folder: Path) -> Facts:
    """The same by ours."""
    tokens = Tokens(folder)
    return {
        "named": tokens.special_tokens,
        "special": sorted(tokens.special_ids),
        "begin": tokens.bos_id,
        "end": tokens.eos_id,
        "pad": tokens.pad_id,
        "ends": sorted(tokens.end_ids),
        "template": tokens.chat_template,
        "texts": (encoded := [tokens.encode(text) for text in asked(folder)]),
        "decoded": [tokens.decode(ids) for ids in encoded],
    }


def asked(folder: Path) -> list[str]:
    """200 texts, and some that spell the folder's control tokens."""
    file = folder / "tokenizer.json"
    added = json.loads(file.read_text(encoding="utf-8"))["added_tokens"] if file.exists() else []
    control = [token["content"] for token in added if token["special"]]
    return [*texts(), *(f"a{token} b  {token}\n" for token in control[:12])]


def test_it_is_read_as_transformers_reads_it(folder: Path) -> None:
    expected, found = facts_by_transformers(folder), facts_by_tokens(folder)
    assert len(expected["texts"]) >= 200 and sum(len(ids) > 1 for ids in expected["texts"]) > 190
    for name, value in expected.items():
        assert found[name] == value, name


def test_it_is_read_without_torch_alike(folders: dict[str, Path], tmp_path: Path) -> None:
    """As the steps do that load no model: one process for all folders."""
    code = f"""
import json, sys
from pathlib import Path
from tasks.model.tokenizer import without_torch
without_torch()
from tests.model.test_hub_tokenizers import facts_by_tokens
folders = json.loads(sys.argv[1])
Path({str(tmp_path / "facts.json")!r}).write_text(json.dumps({{name: facts_by_tokens(Path(at)) for name, at in folders.items()}}))
assert sys.modules["torch"] is None
"""
    places = json.dumps({name: str(folder) for name, folder in folders.items()})
    ended = subprocess.run(
        [sys.executable, "-c", code, places], env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "facts.json").read_text())
    for name, folder in folders.items():
        assert found[name] == facts_by_tokens(folder), name


@pytest.mark.parametrize(
    ("folder", "new", "beside"),
    each(*((name, NEW, True) for name in ALL), *((name, new, not new) for name in FAMILIES for new in ((), NEW))),
    indirect=["folder"],
)
def test_what_is_saved_is_read_alike(folder: Path, tmp_path: Path, new: tuple[str, ...], *, beside: bool) -> None:
    """A merged model has its configuration beside the tokenizer, an adapter has not."""
    tokens, saved = Tokens(folder, new), tmp_path / "saved"
    saved.mkdir()
    tokens.save(saved)
    if beside:
        for name in ("config.json", "generation_config.json"):
            if (folder / name).exists():
                shutil.copyfile(folder / name, saved / name)
    again, ours = loaded(saved), Tokens(saved)
    written = [*asked(folder), *(f"{token}a {token} b" for token in new)]
    expected = [tokens.encode(text) for text in written]
    assert [again.encode(text, add_special_tokens=False) for text in written] == expected
    assert [ours.encode(text) for text in written] == expected
    assert ours.special_tokens == tokens.special_tokens and ours.special_ids == tokens.special_ids
    assert (ours.bos_id, ours.eos_id, ours.chat_template) == (tokens.bos_id, tokens.eos_id, tokens.chat_template)
    assert [again.convert_tokens_to_ids(token) for token in new] == [tokens.id_of(token) for token in new]
    assert all(tokens.encode(token) == [tokens.id_of(token)] for token in new)
    assert not beside or (ours.pad_id, ours.end_ids) == (tokens.pad_id, tokens.end_ids)


def test_a_text_spells_no_control_token(folder: Path) -> None:
    tokens = Tokens(folder)
    for text in texts():
        assert tokens.encode(tokens.literal(text)) == tokens.encode(text), text
    for token in tokens.control_tokens():
        written = f"was{token} it {token}{token}"
        ids = tokens.encode(tokens.literal(written))
        assert tokens.added_tokens[token] not in ids, token
        assert loaded_text(tokens, ids) == loaded_text(tokens, tokens.encode(written)), token


def loaded_text(tokens: Tokens, ids: list[int]) -> str:
    """What the ids spell; some tokenizers put a blank behind a control token or take one away before it."""
    return tokens.decode(ids).replace(" ", "")
