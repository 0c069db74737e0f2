"""Laws of safety: nothing that a user types becomes a shell's, leaves its folder, or reaches another host than those allowed."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.errors import ContractError, LoraflowError, RecipeError, RecipeErrors
from tasks.fetch.allowed_hosts import allowed, check_host
from tasks.registry import publish
from tasks.schema import load as recipes
from tasks.schema.data import Source
from tasks.settings import CHECKOUT
from tasks.workspace.location import run_folder
from tasks.workspace.run import Run

CODE = [path for folder in ("dags", "tasks", "docker", "benchmarks", "docs", ".ci") for path in sorted((CHECKOUT / folder).rglob("*.py"))]
SHELLS = {
    ("os", "system"), ("os", "popen"), ("subprocess", "getoutput"), ("subprocess", "getstatusoutput"),
    ("asyncio", "create_subprocess_shell"), ("pty", "spawn"), ("commands", "getoutput"),
}  # fmt: skip
INTERPRETERS = {"sh", "bash", "/bin/sh", "/bin/bash", "dash", "zsh", "/usr/bin/env"}
COMPILERS = {"eval", "exec"}

PIECES = ["..", ".", "/", "\\", "-", "--", "a", "~", "%2e%2e", "\n", "\0", "$(x)", " ", "v", "1", ":", "s3:", "=="]
HOSTILE = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES)).map("".join))
"""Texts as they come, and such as lead somewhere."""


def calls_of_shells(tree: ast.AST) -> Iterator[str]:
    """What hands a text to a shell or an interpreter."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func
        if isinstance(name, ast.Attribute) and isinstance(name.value, ast.Name) and (name.value.id, name.attr) in SHELLS:
            yield f"line {node.lineno}: {name.value.id}.{name.attr}"
        if isinstance(name, ast.Name) and name.id in COMPILERS:
            yield f"line {node.lineno}: {name.id}"
        for keyword in node.keywords:
            if keyword.arg == "shell" and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False):
                yield f"line {node.lineno}: shell="
        match node.args:
            case [ast.List(elts=[ast.Constant(value=str(first)), *_]) | ast.Tuple(elts=[ast.Constant(value=str(first)), *_]), *_]:
                if first in INTERPRETERS:
                    yield f"line {node.lineno}: {first} as a command"


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_no_command_goes_through_a_shell(path: Path) -> None:
    assert list(calls_of_shells(ast.parse(path.read_text(encoding="utf-8")))) == []


def test_the_search_for_shells_finds_them() -> None:
    for code in (
        "os.system('x')",
        "subprocess.run('x', shell=True)",
        "run(c, shell=flag)",
        "Popen(['sh', '-c', x])",
        "run(('bash', x))",
        "eval(x)",
        "os.popen(x)",
    ):
        assert list(calls_of_shells(ast.parse(code))), code
    assert not list(calls_of_shells(ast.parse("subprocess.run(['git', x], shell=False); model.eval()")))
    assert len(CODE) > 80


@given(st.one_of(st.text(max_size=300), HOSTILE))
@example("..")
@example("")
@example("../../x")
@example("-rf")
def test_a_run_id_is_one_folder_below_its_recipes(run_id: str) -> None:
    assert run_folder("s3://bucket/team/", "tiny", run_id) == f"s3://bucket/team/tiny/{run_folder(Path('/runs'), 'tiny', run_id).name}"
    place = PurePosixPath(str(run_folder(Path("/runs"), "tiny", run_id)))
    assert place.parent == PurePosixPath("/runs/tiny") and re.fullmatch(r"[A-Za-z0-9_.-]{1,130}", place.name)
    assert place.name not in (".", "..") and not place.name.startswith(".")


@given(HOSTILE)
def test_a_recipes_name_is_checked_before_it_becomes_a_folder(name: str) -> None:
    try:
        place = run_folder(Path("/runs"), name, "one")
    except RecipeError:
        return
    assert re.fullmatch(r"[a-z][a-z0-9_]*", name) and str(place) == f"/runs/{name}/one"


@given(HOSTILE.filter(bool))
@example("../x")
@example("a/../../b")
@example("/etc/passwd")
def test_a_part_cannot_leave_the_runs_folder(tmp_path_factory: pytest.TempPathFactory, part: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "parts"
    run = Run(folder)
    with pytest.raises((ContractError, Reached)):
        run.perform("sweep_trial", reached, contract=None, part=part)  # type: ignore[arg-type]
    if folder.exists():
        assert all(re.fullmatch(r"sweep_trial\.[a-z0-9-]+(\.lock)?", path.name) for path in folder.iterdir())


class Reached(Exception):
    """The step would have begun."""


def reached(run: Run) -> Any:
    raise Reached


def source(**keys: Any) -> Source | None:
    try:
        return Source(**keys)
    except ValidationError:
        return None


@given(HOSTILE)
@example("../secret")
@example("a/../../b")
@example("/etc/passwd")
@example("a\\..\\b")
@example("..")
def test_paths_below_the_mirror_a_package_or_a_repository_stay_there(path: str) -> None:
    fetched = {"member": path, "sha256": "0" * 64}
    inside = [source(mirror=path), source(pypi="a==1", **fetched), source(hub="a/b", revision="0" * 40, **fetched)]
    assert len({found is None for found in inside}) == 1
    if inside[0] is not None:
        joined = Path("/mirror") / path
        assert Path("/mirror") in Path(str(joined)).parents and ".." not in joined.parts and path.isprintable()


def test_ordinary_paths_are_taken_as_they_are() -> None:
    for path in ("a.csv", "ethos/Ethos_Dataset_Binary.csv", "한국어/데이터 1.tsv", "a..b/c.csv", ".hidden/x", "-dash"):
        assert source(mirror=path) is not None, path
    assert source(file=Path("/data/x.csv")) is not None and source(file=Path("../x.csv")) is None


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return recipes.load(recipes.RECIPES / "tweets.yaml")


@given(text=HOSTILE)
@example("../x")
@example("owner/..")
@example("-x/y")
@example("pypi:-x==1")
@example("a/b\n")
def test_a_base_models_name_is_one_component_of_the_cache(document: dict[str, Any], text: str) -> None:
    for name in (text, f"owner/{text}", f"pypi:{text}==1"):
        try:
            found = recipes.resolve(document, "full", {"base_model.name": name}).base_model.name
        except RecipeErrors:
            continue
        if not found.startswith("folder:/"):
            assert ".." not in found.split("/") and not found.startswith(("-", "/", ".")) and "\n" not in found
            assert found.count("/") == (0 if found.startswith("pypi:") else 1)


@given(text=HOSTILE)
@example("v1\n")
@example("v" + "9" * 5000)
@example("v-1")
def test_a_data_version_is_a_small_number(document: dict[str, Any], text: str) -> None:
    try:
        found = recipes.resolve(document, "full", {"run.data": text}).run.data
    except RecipeErrors:
        return
    assert found in ("new", "latest") or 1 <= int(found[1:]) < 10**9


@given(HOSTILE)
@example("../x")
@example("-x")
def test_a_namespace_is_a_name(text: str) -> None:
    try:
        found = publish.namespace(f"hub:{text}")
    except ContractError:
        return
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", found) and ".." not in found and found[0] not in "-."


@pytest.mark.parametrize("url", ["--upload-pack=touch {folder}/hacked", "-x", "ext::sh -c 'touch {folder}/hacked'"])
def test_a_git_url_that_is_an_option_or_a_program_runs_nothing(
    url: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.data.repository import cloned

    monkeypatch.setenv("LORAFLOW_DATA_REPO", url.format(folder=tmp_path))
    with pytest.raises(LoraflowError, match="git clone failed"), cloned(tmp_path):
        pass
    assert not (tmp_path / "hacked").exists()


hosts = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{2,5}){1,3}", fullmatch=True)


@given(hosts, st.lists(hosts, max_size=4))
def test_a_list_of_hosts_holds_what_stands_in_it_and_no_neighbour(host: str, listed: list[str]) -> None:
    names = tuple(listed)
    assert allowed(host, names) == (not names or host in names)
    assert allowed(host.upper() + ".", (host, *names)) and allowed(f"cdn.{host}", (f"*.{host}",))
    assert (
        not allowed(host, (f"*.{host}",))
        and not allowed(f"evil-{host}", (host, f"*.{host}"))
        and not allowed(f"{host}.evil.example", (host,))
    )


@pytest.mark.parametrize(
    "url",
    [
        "https://good.example@evil.example/x",
        "https://evil.example/?good.example",
        "https://evil.example#good.example",
        "http:///x",
        "https://[::1]/x",
    ],
    ids=["user", "query", "fragment", "no host", "number"],  # pytest puts them into the environment, where a user would be a secret
)
def test_an_address_that_looks_like_another(url: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_ALLOWED_HOSTS", "good.example, *.good.example")
    check_host("here", "https://user:planted@cdn.good.example:8443/x?planted=1")
    with pytest.raises(
        RecipeError, match=r"a host of LORAFLOW_ALLOWED_HOSTS \(good.example, \*.good.example\)\)\. Fix: add the host there"
    ):
        check_host("here", url)
