"""The settings of the service: those of its middleware, and yours."""

from .middleware import StackSettings


class Settings(StackSettings):
    """Add a field here, and its variable is read from the environment and `.env`."""
