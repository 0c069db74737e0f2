"""What a run will need where it will run, looked at before it starts: `loraflow doctor` by hand, `preflight` in every run."""
