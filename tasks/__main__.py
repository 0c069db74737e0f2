"""`python -m tasks` is the same command as `loraflow`."""

from tasks.cli import main

main()
