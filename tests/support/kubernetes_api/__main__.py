"""python -m tests.support.kubernetes_api --port 8001 --kubeconfig fake.yaml [--image NAME …]: the fake by itself, until Ctrl-C."""

import argparse
import signal
import tempfile
import threading
from pathlib import Path

from tests.support.kubernetes_api.fake import serve


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.kubernetes_api", description="A small Kubernetes API server on loopback."
    )
    parser.add_argument("--port", type=int, default=0, help="port to listen on; default: a free one")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="file to write address and token to")
    parser.add_argument(
        "--image", action="append", default=[], help="a further image that is this checkout's environment; a pattern may be"
    )
    given = parser.parse_args()
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    with tempfile.TemporaryDirectory(prefix="kubernetes-") as folder, serve(Path(folder) / "fake", given.port, given.kubeconfig) as api:
        for name in given.image:
            api.add_image(name, api.cluster.images["loraflow/steps:test"])
        print(f"{api.url}  KUBECONFIG={api.kubeconfig}", flush=True)
        over.wait()


if __name__ == "__main__":
    main()
