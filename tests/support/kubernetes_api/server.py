"""HTTP/1.1 on loopback: tokens, keep-alive, chunked streams that can be cut."""

import contextlib
import json
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

from tests.support.http_server import body_of
from tests.support.kubernetes_api.answers import Refusal, bad_request, unauthorized
from tests.support.kubernetes_api.call_faults import CallFaults
from tests.support.kubernetes_api.cluster import Cluster
from tests.support.kubernetes_api.routes import Answer, Request, Routes


@dataclass(frozen=True)
class Seen:
    """A request that has been answered."""

    method: str
    path: str
    query: dict[str, str]
    code: int


class Server(ThreadingHTTPServer):
    """Serves one cluster."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, cluster: Cluster, token: str, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.token = token
        self.faults = CallFaults()
        self.routes = Routes(cluster, self.faults)
        self.requests: list[Seen] = []
        self.closing = False
        self._streams: dict[str, int] = {"watch": 0, "log": 0}
        """How often streams of a kind have been cut."""
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="kubernetes api", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Serve no more."""
        self.closing = True
        self.shutdown()
        self._thread.join()
        self.server_close()

    def cut(self, kind: str) -> None:
        """Cut every stream of a kind that is open now."""
        self._streams[kind] += 1

    def cuts(self, kind: str) -> int:
        """How often streams of this kind have been cut."""
        return self._streams.get(kind, 0)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is no error of ours; anything else is."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        body = body_of(self)
        address = urlsplit(self.path)
        query = dict(parse_qsl(address.query))
        code = 0
        try:
            if not self.server.faults.before(self.command, address.path):
                return self._hang_up()
            if self.headers.get("Authorization") != f"Bearer {self.server.token}":
                raise unauthorized()
            kind = (self.headers.get("Content-Type") or "").partition(";")[0]
            answer = self.server.routes.answer(Request(self.command, address.path, query, kind, _read(body, kind)))
            time.sleep(self.server.faults.linger)
            code = answer.code
            cuts = self.server.cuts(answer.streams)  # first: whoever knows of the stream may cut it
            self._note(address.path, query, code)
            self._send(answer, cuts)
        except Refusal as refused:
            self._note(address.path, query, refused.code)
            self._send_object(refused.status(), refused.code, refused.headers)
        except OSError:
            self.close_connection = True
        except Exception as error:
            if code:
                raise
            self._note(address.path, query, 500)
            self._send_object(Refusal(500, "InternalError", f"the fake API has a bug: {error!r}").status(), 500)
            raise

    def _note(self, path: str, query: dict[str, str], code: int) -> None:
        self.server.requests.append(Seen(self.command, path, query, code))

    def _send(self, answer: Answer, cuts: int) -> None:
        if answer.stream is None:
            assert answer.content is not None
            return self._send_object(answer.content, answer.code)
        self.send_response(answer.code)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self._stream(answer.stream, answer.streams, cuts):
            self.wfile.write(b"0\r\n\r\n")
        else:
            self._hang_up()

    def _stream(self, pieces: Iterator[bytes], kind: str, cuts: int) -> bool:
        """Send pieces as they come; False if the connection is to end in the middle, as after a cut more than there were."""
        for piece in pieces:
            if self.server.closing or self.server.cuts(kind) != cuts or (not piece and self._left()):
                return False
            if piece:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        return self.server.cuts(kind) == cuts

    def _left(self) -> bool:
        """Whether the client has closed its end."""
        if not select.select([self.connection], [], [], 0)[0]:
            return False
        return not self.connection.recv(1, socket.MSG_PEEK)

    def _send_object(self, content: object, code: int, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def _read(body: bytes, kind: str) -> Any:
    if not body:
        return None
    try:
        return yaml.safe_load(body) if "yaml" in kind else json.loads(body)
    except (ValueError, yaml.YAMLError) as error:
        raise bad_request(f"the body of the request cannot be read: {error}") from None
