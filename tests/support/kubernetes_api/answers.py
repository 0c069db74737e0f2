"""How the API refuses: an HTTP code and a Status object."""

from typing import Any

Object = dict[str, Any]


class Refusal(Exception):
    """A request that is answered with an error.

    Args:
        code: HTTP status.
        reason: the API's own word for it, "NotFound" for example.
        message: for people.
        details: of the Status object.
        headers: further HTTP headers.
    """

    def __init__(self, code: int, reason: str, message: str, details: Object | None = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details, self.headers = code, reason, message, details or {}, headers or {}

    def status(self) -> Object:
        """The Status object that the client reads."""
        head: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        return head | {"message": self.message, "reason": self.reason, "details": self.details, "code": self.code}


def not_found(plural: str, name: str) -> Refusal:
    """No such object."""
    return Refusal(404, "NotFound", f'{plural} "{name}" not found', {"name": name, "kind": plural})


def no_such_path() -> Refusal:
    """No such resource."""
    return Refusal(404, "NotFound", "the server could not find the requested resource")


def already_exists(plural: str, name: str) -> Refusal:
    """The name is taken."""
    return Refusal(409, "AlreadyExists", f'{plural} "{name}" already exists', {"name": name, "kind": plural})


def conflict(plural: str, name: str, why: str) -> Refusal:
    """The object is not as the client believes."""
    return Refusal(409, "Conflict", f'Operation cannot be fulfilled on {plural} "{name}": {why}', {"name": name, "kind": plural})


def invalid(kind: str, name: str, causes: list[tuple[str, str, str]]) -> Refusal:
    """An object that breaks rules; each cause is (reason, field, message)."""
    told = [{"reason": reason, "field": field, "message": message} for reason, field, message in causes]
    lines = [f"{field}: {message}" for _, field, message in causes]
    text = lines[0] if len(lines) == 1 else f"[{', '.join(lines)}]"
    return Refusal(422, "Invalid", f'{kind} "{name}" is invalid: {text}', {"name": name, "kind": kind, "causes": told})


def bad_request(message: str) -> Refusal:
    """A request that cannot be read."""
    return Refusal(400, "BadRequest", message)


def forbidden(plural: str, name: str, why: str) -> Refusal:
    """A request that rights or admission refuse."""
    return Refusal(403, "Forbidden", f'{plural} "{name}" is forbidden: {why}', {"name": name, "kind": plural})


def unauthorized() -> Refusal:
    """No token, or one that has expired."""
    return Refusal(401, "Unauthorized", "Unauthorized")


def expired(asked: int, oldest: int) -> Refusal:
    """A resource version that the server has forgotten."""
    return Refusal(410, "Expired", f"too old resource version: {asked} ({oldest})")
