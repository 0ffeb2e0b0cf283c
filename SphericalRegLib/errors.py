"""The one exception that speaks to a user."""

from __future__ import annotations


class InputError(Exception):
    """Input that cannot be used.

    Its message is one sentence that says what is wrong, where, and what was expected. The command line prints it without a traceback and exits
    with code 2; the Slicer module shows it in words.
    """
