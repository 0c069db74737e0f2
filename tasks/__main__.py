"""`python -m tasks` is the same command as `loraflow`."""

import os

from tasks.cli import main

for place in ("HOME", "TMPDIR"):
    if folder := os.environ.get(place):
        os.makedirs(folder, exist_ok=True)  # a pod's scratch disk is empty, and everything else in it can only be read

main()
