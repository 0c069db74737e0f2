"""The body of a request as the servers of these tests read it."""

from http.server import BaseHTTPRequestHandler


def body_of(request: BaseHTTPRequestHandler) -> bytes:
    """All of it, sent with its length or in chunks."""
    if request.headers.get("Transfer-Encoding") != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))
    pieces = []
    while size := int(request.rfile.readline(), 16):
        pieces.append(request.rfile.read(size))
        request.rfile.readline()
    request.rfile.readline()
    return b"".join(pieces)
