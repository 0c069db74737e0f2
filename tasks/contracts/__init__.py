"""What one step hands to the next."""

from tasks.contracts.data import *  # noqa: F403
