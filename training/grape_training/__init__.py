"""Training, evaluation and the ``grape`` command line."""

__version__ = "0.1.0"
