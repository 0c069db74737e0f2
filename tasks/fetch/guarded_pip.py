"""pip that asks only hosts of LORAFLOW_ALLOWED_HOSTS: `python -m tasks.fetch.guarded_pip download …`, with pip's own arguments.

pip has no such option, and an index may name files on any host. So each request is looked at before it is sent, redirects too.
"""

import runpy
from typing import Any

from tasks.errors import RecipeError
from tasks.fetch.allowed_hosts import check_host
from tasks.secrets.redaction import without_credentials

REFUSED = "REFUSED "
"""How the line begins that names the address that was not asked."""


def main() -> None:
    """Run pip in this process, its HTTP client guarded."""
    from pip._vendor.requests import Session

    send = Session.send

    def guarded(self: Any, request: Any, **options: Any) -> Any:
        if request.url.startswith(("http://", "https://")):
            try:
                check_host("pip", request.url)
            except RecipeError:
                print(f"{REFUSED}{without_credentials(request.url)}", flush=True)
                raise KeyboardInterrupt from None  # pip tidies up and ends; of any other error it prints a traceback, or goes on
        return send(self, request, **options)

    Session.send = guarded  # type: ignore[method-assign]
    runpy.run_module("pip", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
