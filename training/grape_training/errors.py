"""The errors a user can do something about: shown as one line, never as a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: ``what`` was wrong (and where), and the ``remedy``.

    ``exit_code`` is what the command line returns: 1 the work failed, 2 the input was bad.
    """

    exit_code = 1

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(f"{what}. {remedy}" if remedy else what)
        self.what = what
        self.remedy = remedy


class BadInputError(UserError):
    """An argument, a file or a config that cannot be used as it is."""

    exit_code = 2
