"""Errors that a user can mend: the command line prints them as one line; any other error is a fault of ours.

They keep the built-in class beside their own, so that `except ValueError` and `except FileNotFoundError` go on working.
OSError comes first where it is one: it alone reads `errno` from its arguments.
"""

from __future__ import annotations


class UserError(ValueError):
    """An argument, a config or a file is not what it must be; the message names it, its value and the next step."""


class MissingFileError(FileNotFoundError, UserError):
    """A file or folder that the user named, or an earlier stage should have made, is not there."""


class UnavailableError(OSError, UserError):
    """A model, data set or disk can't be read or written as asked."""


class MissingPackageError(UserError, ImportError):
    """An optional package is not installed; the message holds the command that installs it."""


class NotFiniteError(UserError, FloatingPointError):
    """Numbers ran over; the message names the setting that keeps them finite."""
