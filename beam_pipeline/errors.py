"""Failures that are the user's to mend, each told in one line."""

from __future__ import annotations


class PipelineError(Exception):
    """A failure with a message for the user; the CLI prints it without a stack trace."""

    exit_code: int = 1


class UsageError(PipelineError):
    """A flag or a file given by the user is wrong: exit code 2."""

    exit_code = 2


class EnvironmentFailure(PipelineError):
    """Something outside the command line is missing or broken: exit code 1."""

    exit_code = 1
