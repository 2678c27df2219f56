"""Failures that a user can fix, each with a message of one line."""

from __future__ import annotations


class PipelineError(Exception):
    """A failure with a message for the user, which is printed without a stack trace."""

    exit_code: int = 1


class UsageError(PipelineError):
    """A flag or a file from the user is wrong. Exit code 2."""

    exit_code = 2


class EnvironmentFailure(PipelineError):
    """Something outside the command line is missing or broken. Exit code 1."""

    exit_code = 1
