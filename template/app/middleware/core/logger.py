"""Loggers that stay on when logging is configured after the layers were imported."""

import logging


class LayerLogger(logging.Logger):
    """
    A logger that ignores `disabled`; its level can be set.

    `dictConfig` and `fileConfig` disable by default each logger that they don't name. Then nobody
    would see unhandled exceptions.
    """

    @property
    def disabled(self) -> bool:
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        """Stay on."""


def layer_logger(name: str) -> logging.Logger:
    """Return the logger of a module."""
    logger = logging.getLogger(name)
    logger.__class__ = LayerLogger
    return logger
