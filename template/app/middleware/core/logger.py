"""Loggers that stay on when logging is configured after the layers were imported."""

import logging


class LayerLogger(logging.Logger):
    """
    A logger that ignores `disabled`; its level can be set.

    `dictConfig` and `fileConfig` disable by default each logger that they don't name. Then nobody
    would see unhandled exceptions.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name != "disabled":
            super().__setattr__(name, value)


def layer_logger(name: str) -> logging.Logger:
    """Return the logger of a module."""
    logger = logging.getLogger(name)
    logger.disabled = False
    logger.__class__ = LayerLogger
    return logger
