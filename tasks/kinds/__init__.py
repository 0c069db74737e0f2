"""The five kinds of task; `base.py` says what a kind is."""
