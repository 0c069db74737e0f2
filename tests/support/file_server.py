"""A file server on loopback with the faults of the real ones, and the Hub's few routes that its client asks for."""

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Served:
    """A file, and how its server misbehaves; each list is used up, one item a request."""

    body: bytes
    statuses: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    """Bytes after which the connection ends, though more were promised."""
    ranges: bool = True
    wrong_range: bool = False
    seconds_a_piece: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)


class FileServer(ThreadingHTTPServer):
    """Serves `files` by path; `log` holds method, path and asked range of every request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, Served] = {}
        self.log: list[tuple[str, str, str | None]] = []
        self.tokens: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "FileServer":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def asked(self, part: str = "") -> list[str]:
        """Paths of the requests that hold a text."""
        return [path for _, path, _ in self.log if part in path]

    def add_model(self, name: str, files: dict[str, bytes], revisions: tuple[str, ...] = ("main",)) -> None:
        """A repository of the Hub; weights as large files with checksums."""

        def entry(file: str, body: bytes) -> dict[str, object]:
            large = {"lfs": {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 1}}
            return {"rfilename": file, "size": len(body), "blobId": "0" * 40, **(large if file.endswith(".safetensors") else {})}

        info = {"id": name, "modelId": name, "sha": COMMIT, "siblings": [entry(*item) for item in files.items()]}
        for revision in (*revisions, COMMIT):
            self.files[f"/api/models/{name}/revision/{revision}"] = Served(json.dumps(info).encode())
        self.files[f"/api/models/{name}"] = Served(json.dumps(info).encode())
        for file, body in files.items():
            etag = hashlib.sha256(body).hexdigest()
            self.files[f"/{name}/resolve/{COMMIT}/{file}"] = Served(body, headers={"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def add_dataset(self, name: str, files: dict[str, bytes]) -> None:
        """A data set of the Hub, at its one commit."""
        for file, body in files.items():
            etag = hashlib.sha256(body).hexdigest()
            self.files[f"/datasets/{name}/resolve/{COMMIT}/{file}"] = Served(body, headers={"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def refuse(self, path: str, status: int, code: str) -> None:
        """Answer everything below a path as the Hub refuses."""
        self.files[path] = Served(b"", statuses=[status] * 100, headers={"X-Error-Code": code, "X-Error-Message": "told by the test"})


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, asked = self.path.partition("?")[0], self.headers.get("Range")
        self.server.log.append((self.command, path, asked))
        self.server.tokens.append(self.headers.get("Authorization"))
        file = self.server.files.get(path)
        if file is None:
            return self.answer(404, b"", {})
        if file.statuses:
            return self.answer(file.statuses.pop(0), b"", file.headers)
        begin = int(asked.removeprefix("bytes=").partition("-")[0]) if asked and file.ranges else 0
        if begin and begin >= len(file.body):
            return self.answer(416, b"", {})
        told = 0 if file.wrong_range else begin
        content = {"Content-Range": f"bytes {told}-{len(file.body) - 1}/{len(file.body)}"} if begin else {}
        return self.answer(206 if begin else 200, file.body[begin:], {**file.headers, **content}, file)

    def answer(self, status: int, body: bytes, headers: dict[str, str], file: Served | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = file.cuts.pop(0) if file and file.cuts else len(body)
        piece = max(1, len(body) // 20) if file and file.seconds_a_piece else max(1, len(body))
        try:
            for begin in range(0, cut, piece):
                self.wfile.write(body[begin : min(begin + piece, cut)])
                if file and file.seconds_a_piece:
                    self.wfile.flush()
                    time.sleep(file.seconds_a_piece)
        except OSError:
            pass
        if cut < len(body):
            self.close_connection = True
            self.connection.shutdown(2)

    def log_message(self, *_: object) -> None:
        pass
