"""Objects in a store: whole or not at all, in parts and in parallel, whatever the network does."""

import hashlib
import json
import os
import random
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.errors import ContractError, ServiceError, SettingsError
from tasks.workspace import bucket_transfer, filesystems
from tasks.workspace.bucket_transfer import LISTING, Objects, inside
from tests.support.s3_server import S3

PART = 64 << 10
MULTIPART = 5 << 20  # S3 takes no smaller part of an upload, but for the last


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


@pytest.fixture
def store(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Objects:
    """Where downloads come in parts of 64 kB."""
    monkeypatch.setattr(bucket_transfer, "PART_BYTES", PART)
    return Objects(s3.url)


FILES = {
    "adapter/weights": random.Random(1).randbytes(5 * PART + 17), "config.json": b"{}", "empty": b"", "with space [1]*?.txt": b"odd"
}  # fmt: skip


@pytest.fixture
def uploaded(s3: S3, tmp_path: Path, store: Objects, monkeypatch: pytest.MonkeyPatch) -> Objects:
    """Four files in a folder `train/a` of the store."""
    monkeypatch.setattr(bucket_transfer, "PART_BYTES", MULTIPART)
    store.upload(tmp_path / "up", "train/a", write(tmp_path / "up", FILES))
    monkeypatch.setattr(bucket_transfer, "PART_BYTES", PART)
    s3.heal()
    return store


def test_small_objects_are_written_read_listed_and_removed(store: Objects) -> None:
    assert store.get("recipe.yaml") is None and store.names() == [] and store.sizes("train") == {}
    store.put("recipe.yaml", "größe: 1\n".encode())
    store.put("train/a/b", b"four")
    store.put("train.part/c", b"")
    assert store.get("recipe.yaml") == "größe: 1\n".encode() and store.names() == ["recipe.yaml"]
    assert store.sizes("train") == {"train/a/b": 4}
    store.remove(["train/a/b", "train/never"])
    assert set(store.sizes()) == {"recipe.yaml", "train.part/c"}


def test_a_folder_comes_back_as_it_went_up_its_listing_last(s3: S3, uploaded: Objects, tmp_path: Path) -> None:
    assert {path: entry.bytes for path, entry in uploaded.listing("train/a").items()} == {k: len(v) for k, v in FILES.items()}
    uploaded.download("train/a", tmp_path / "down")
    assert files_of(tmp_path / "down") == FILES
    parts = [asked for asked in s3.asked() if "adapter/weights" in asked and "bytes=" in asked]
    assert len(parts) == 6, "five parts of 64 kB and the rest, and none twice"


def test_what_lies_below_a_path_comes_alone_and_once(s3: S3, uploaded: Objects, tmp_path: Path) -> None:
    uploaded.download("train/a", tmp_path / "down", "adapter")
    assert set(files_of(tmp_path / "down")) == {"adapter/weights"}
    s3.heal()
    uploaded.download("train/a", tmp_path / "down", "adapter/weights")
    assert not [asked for asked in s3.asked() if "bytes=" in asked]
    with pytest.raises(ContractError, match=r"train/a: adap is not in its listing \(expected: one of its files\)"):
        uploaded.download("train/a", tmp_path / "down", "adap")


def test_a_large_file_goes_up_in_parts_at_the_same_time(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_transfer, "PART_BYTES", MULTIPART)
    content = random.Random(2).randbytes(3 * MULTIPART + 1)
    Objects(s3.url).upload(tmp_path / "up", "merge/a", write(tmp_path / "up", {"model.safetensors": content}))
    parts = [asked for asked in s3.asked() if asked.startswith("PUT") and "partNumber" in asked]
    assert len(parts) == 4 and s3.read("merge/a/model.safetensors") == content
    listed = json.loads(s3.read("merge/a" + LISTING))["files"]["model.safetensors"]
    assert listed == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize("fault", ["slow down", "unavailable", "cut answer", "slow"])
def test_a_download_outlives_faults_and_fetches_only_the_cut_part_again(
    s3: S3, uploaded: Objects, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "slow":
        filesystems._file_system.cache_clear()
        monkeypatch.setattr(filesystems, "READ_SECONDS", 0.5)
    s3.fail(fault, r"weights.*bytes=131072-", times=2)  # type: ignore[arg-type]
    uploaded.download("train/a", tmp_path / "down")
    assert files_of(tmp_path / "down") == FILES
    asked = [asked.rpartition("bytes=")[2] for asked in s3.asked() if "weights" in asked and "bytes=" in asked]
    assert asked.count("131072-196607") == 3 and len(asked) == 6 + 2
    filesystems._file_system.cache_clear()


@pytest.mark.parametrize("fault", ["slow down", "unavailable", "cut request", "cut answer"])
def test_an_upload_outlives_faults(s3: S3, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_transfer, "PART_BYTES", MULTIPART)
    s3.fail(fault, r"PUT .*(partNumber=2|config)", times=2)  # type: ignore[arg-type]
    content = {"model": random.Random(3).randbytes(2 * MULTIPART + 5), "config": b"{}"}
    store = Objects(s3.url)
    store.upload(tmp_path / "up", "merge/a", write(tmp_path / "up", content))
    store.download("merge/a", tmp_path / "down")
    assert files_of(tmp_path / "down") == content


def test_used_up_retries_are_told_with_place_finding_and_remedy(s3: S3, uploaded: Objects, tmp_path: Path) -> None:
    s3.fail("unavailable", "GET .*weights", times=-1)
    with pytest.raises(ServiceError) as told:
        uploaded.download("train/a", tmp_path / "down")
    beginning = f"{s3.url}/train/a/adapter/weights: the store does not answer as it should (An error occurred (ServiceUnavailable)"
    assert str(told.value).startswith(beginning)
    assert "look at the store and its address (AWS_ENDPOINT_URL)" in str(told.value)
    assert not (tmp_path / "down/adapter/weights").exists(), "a file that did not come whole does not bear its name"
    s3.heal()
    uploaded.download("train/a", tmp_path / "down")
    assert files_of(tmp_path / "down") == FILES


def test_a_refusal_names_the_credentials_and_never_shows_them(s3: S3, store: Objects) -> None:
    s3.fail("denied", "PUT", times=-1)
    with pytest.raises(
        ServiceError, match=r"not allowed \(.*AccessDenied, said the test\) \(expected: access\)\. Fix: give this process"
    ) as told:
        store.put("x", b"")
    assert "planted" not in str(told.value)


def test_no_answer_at_all_is_told_without_the_password_of_the_address(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for address in ("http://127.0.0.1:9/", "http://somebody:planted-password@127.0.0.1:9/"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(ServiceError, match=r"the store does not answer as it should .* \(expected: an answer\)") as told:
            Objects(s3.url).get("x")
        assert "planted" not in str(told.value) and told.value.__cause__ is None


def test_no_credentials_at_all_are_told(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    with pytest.raises(ServiceError, match=r"not allowed \(Unable to locate credentials\) \(expected: access\)"):
        Objects(s3.url).put("x", b"")


def test_a_bucket_that_is_not_there_is_named(s3: S3) -> None:
    with pytest.raises(SettingsError, match=r"s3://nobodys-bucket/x/y: no such bucket \(expected: one that is there\)\. Fix: create it"):
        Objects("s3://nobodys-bucket/x").put("y", b"")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s3: s3.write("train/a/config.json", b"{ "), "config.json: 2 bytes|config.json: another sha256"),
        (
            lambda s3: s3.write("train/a/config.json", b"{}}"),
            r"config.json: 3 bytes \(expected: 2 bytes\)\. Fix: run the step that makes it anew",
        ),
        (lambda s3: s3.write("train/a/config.json", b"[]"), r"config.json: another sha256 \(expected: the one of its listing\)"),
        (lambda s3: s3.client.delete_object(Bucket=s3.bucket, Key="workspace/train/a/empty"), r"empty: missing \(expected: 0 bytes\)"),
        (lambda s3: s3.client.delete_object(Bucket=s3.bucket, Key="workspace/train/a.listing"), "train/a: no listing"),
        (lambda s3: s3.write("train/a.listing", b"{"), r"a.listing: not readable \(expected: a folder's listing\)"),
        (lambda s3: s3.write("train/a.listing", b'{"files": {"../../x": {"bytes": 1, "sha256": ""}}}'), "leaves its folder"),
    ],
)
def test_a_torn_folder_is_never_taken_for_whole(s3: S3, uploaded: Objects, tmp_path: Path, damage: object, message: str) -> None:
    damage(s3)  # type: ignore[operator]
    with pytest.raises(ContractError, match=message):
        uploaded.download("train/a", tmp_path / "down")
    assert not (tmp_path / "down" / "config.json").exists() or files_of(tmp_path / "down").get("config.json") == b"{}"


def test_an_answer_that_comes_short_without_a_word_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a proxy gives it that closes the connection in good order."""
    store = Objects(f"memory://bucket/{tmp_path.name}")
    store.upload(tmp_path / "up", "a", write(tmp_path / "up", {"file": b"0123456789"}))
    kind, lengths = type(filesystems.file_system("memory")), [4, 9]
    whole = kind.cat_file

    def short(self: object, path: str, start: int | None = None, end: int | None = None) -> bytes:
        content: bytes = whole(self, path, start, end)
        return content[: lengths.pop()] if lengths and path.endswith("/file") else content

    monkeypatch.setattr(kind, "cat_file", short)
    store.download("a", tmp_path / "down")
    assert (tmp_path / "down" / "file").read_bytes() == b"0123456789" and not lengths
    lengths += [4, 4, 4]
    with pytest.raises(ServiceError, match=r"a/file: 4 bytes came \(expected: 10\)\. Fix: try again"):
        store.download("a", tmp_path / "again")


def test_an_upload_that_is_cut_short_leaves_no_listing(s3: S3, store: Objects, tmp_path: Path) -> None:
    s3.fail("unavailable", "PUT .*second", times=-1)
    with pytest.raises(ServiceError, match="second"):
        store.upload(tmp_path / "up", "train/a", write(tmp_path / "up", {"first": b"1", "second": b"2"}))
    s3.heal()
    with pytest.raises(ContractError, match=r"no listing \(expected: a folder that is whole\)"):
        store.download("train/a", tmp_path / "down")


def test_memory_and_threads_stay_bounded(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """24 MB in parts of 512 kB on eight threads: some parts at a time in memory, and never the file."""
    monkeypatch.setattr(bucket_transfer, "PART_BYTES", MULTIPART)
    store, size = Objects(s3.url), 24 << 20
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "big").write_bytes(os.urandom(1 << 20) * 24)
    store.upload(tmp_path / "up", "a", [tmp_path / "up" / "big"])
    monkeypatch.setattr(bucket_transfer, "PART_BYTES", 512 << 10)
    most: list[int] = []
    part = Objects._part

    def watched(self: Objects, *given: object) -> bytes:
        most.append(sum(thread.name.startswith("transfer") for thread in threading.enumerate()))
        return part(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Objects, "_part", watched)
    tracemalloc.start()
    store.download("a", tmp_path / "down")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(most) == 48 and max(most) <= bucket_transfer.THREADS and peak < size / 2, f"{peak:,} bytes"
    assert (tmp_path / "down" / "big").read_bytes() == (tmp_path / "up" / "big").read_bytes()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3:/bucket", r"is no place \(expected: a folder or a URL like s3://bucket/prefix\)"),
        ("s3://bucket/../other", "is no place"),
        ("s3://bucket/a?versionId=1", "is no place"),
        ("simplecache::s3://bucket", "is no place"),
        ("s3://key:secret@bucket/a", r"holds a name or a password \(expected: none\)"),
        ("nosuch://bucket/a", "no such scheme"),
    ],
)
def test_what_is_no_place_is_refused(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as told:
        Objects(url).get("x")
    assert "secret@" not in str(told.value)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    filesystems._file_system.cache_clear()
    monkeypatch.setattr(filesystems, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"its package is not installed \(expected: s3fs\)\. Fix: pip install loraflow\[s3\]"):
        Objects("s3://bucket/a").get("x")


SEGMENT = st.text(st.characters(codec="utf-8", exclude_characters="/\\\0", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
SEGMENTS = SEGMENT.filter(lambda name: name not in (".", "..") and not name.endswith((".listing", ".partial")))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(st.dictionaries(SEGMENTS, st.binary(max_size=40), min_size=1, max_size=4))
def test_any_folder_comes_back_as_it_went_up(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    """Through fsspec's memory file system, as any other store."""
    folder = tmp_path_factory.mktemp("any")
    store = Objects(f"memory://bucket/{folder.name}")
    store.upload(folder / "up", "a", write(folder / "up", files))
    store.download("a", folder / "down")
    assert files_of(folder / "down") == files


@given(st.text(max_size=30))
def test_a_path_never_leaves_its_folder(relative: str) -> None:
    try:
        found = inside(relative)
    except ContractError:
        return
    assert os.path.normpath(f"/run/{found}").startswith("/run/")
