"""Wheels of a few lines, a package index on loopback that serves them, and PyTorch's index behind a proxy with its own certificate."""

import datetime
import hashlib
import io
import json
import ssl
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.file_server import FileServer, Served
from tests.support.http_server import serving

JSON = {"Content-Type": "application/vnd.pypi.simple.v1+json"}


@dataclass(frozen=True)
class Wheel:
    """A package of one module that has the package's name."""

    name: str
    version: str
    tag: str = "py3-none-any"
    requires: tuple[str, ...] = ()
    source: str = ""

    @property
    def file(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}-{self.tag}.whl"

    @property
    def body(self) -> bytes:
        stem, info = self.name.replace("-", "_"), f"{self.name.replace('-', '_')}-{self.version}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {self.version}\n"
        files = {
            f"{stem}.py": self.source,
            f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {each}\n" for each in self.requires),
            f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: false\nTag: {self.tag}\n",
        }
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for path, text in {**files, f"{info}/RECORD": "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])}.items():
                archive.writestr(zipfile.ZipInfo(path), text)
        return packed.getvalue()

    def write(self, folder: Path) -> None:
        (folder / self.file).write_bytes(self.body)


def add_index(server: FileServer, wheels: Sequence[Wheel], sizes: dict[str, int]) -> None:
    """Serve wheels below /simple; `sizes` are told instead of the true ones, by name."""
    for name in {wheel.name for wheel in wheels}:
        files = []
        for wheel in (each for each in wheels if each.name == name):
            server.files[f"/files/{wheel.file}"] = Served(wheel.body)
            digest = hashlib.sha256(wheel.body).hexdigest()
            files.append({"filename": wheel.file, "url": f"/files/{wheel.file}", "hashes": {"sha256": digest}, "size": sizes.get(name, 1)})
        page = {"meta": {"api-version": "1.1"}, "name": name, "versions": [], "files": files}
        server.files[f"/simple/{name}/"] = Served(json.dumps(page).encode(), headers=JSON)


def _certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """A certificate of a host with its key in one file, and the authority that signed it."""
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in ("tests", host)]
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in names]
    signed = []
    for name, key in zip(names, keys, strict=True):
        builder = x509.CertificateBuilder(names[0], name, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=key is keys[0], path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        signed.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths = folder / "host.pem", folder / "authority.pem"
    paths[0].write_bytes(keys[1].private_bytes(*form) + signed[1])
    paths[1].write_bytes(signed[0])
    return paths


@contextmanager
def pytorch_index(folder: Path, wheel: Wheel) -> Iterator[dict[str, str]]:
    """PyTorch's index with one wheel, whichever of its builds is asked for; the variables that lead there."""
    pair, authority = _certificate(folder, "download.pytorch.org")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)

    class Index(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            page = f'<a href="/{wheel.file}">{wheel.file}</a>'.encode()
            found, kind = (wheel.body, "application/zip") if self.path.endswith(".whl") else (page, "text/html")
            self.send_response(200 if "torch" in self.path else 404)
            self.send_header("Content-Length", str(len(found)))
            self.send_header("Content-Type", kind)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(found)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    class Proxy(Index):
        def do_CONNECT(self) -> None:
            assert self.path == "download.pytorch.org:443", self.path
            self.send_response(200)
            self.end_headers()
            with context.wrap_socket(self.connection, server_side=True) as secure:
                Index(secure, self.client_address, self.server)
            self.close_connection = True

    with serving(Proxy) as address:
        yield {"HTTPS_PROXY": address, "SSL_CERT_FILE": str(authority)}
