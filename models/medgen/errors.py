"""What can go wrong, as the user reads it: one plain sentence each. Standard library only (loaded inside Slicer)."""

from __future__ import annotations


class MedGenError(Exception):
    """A failure whose message is one plain sentence for the user (exit code 1)."""

    exit_code = 1


class BadInput(MedGenError):
    """What the user gave cannot be used: file, image, parameter, weights (exit code 2)."""

    exit_code = 2


class Cancelled(MedGenError):
    """The user cancelled the job; raised by `Progress.raise_if_cancelled` inside a method."""
