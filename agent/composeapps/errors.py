"""Every error a person can meet, each with its exit code.

Code below raises these with one sentence that says what to do; only ``cli`` catches them.
The exit codes are a contract, listed in ``docs/composeapps.1.md``.
"""

from __future__ import annotations


class ComposeAppsError(Exception):
    """Base of all errors that are an answer and not a defect."""

    exit_code = 1


class UsageError(ComposeAppsError):
    """The command line asks for something that does not exist or does not go together."""

    exit_code = 2


class ConfigError(ComposeAppsError):
    """A settings file, a Compose file or another input file cannot be used as it is."""

    exit_code = 3


class SettingsError(ConfigError):
    """The device's own settings or programs stand in the way; no release is to blame."""


class SourceError(ComposeAppsError):
    """A server, a registry or a source directory did not deliver; trying later can help."""

    exit_code = 4

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        #: Seconds the server asked to wait, already capped; None where it said nothing.
        self.retry_after = retry_after


class TransientError(SourceError):
    """The source failed in a way that may be gone when it is asked again in a moment."""


class NotFoundError(SourceError):
    """The source answered, and does not have it."""


class TrustError(ComposeAppsError):
    """Metadata, a release or a signature does not chain to the trusted root."""

    exit_code = 5


class IntegrityError(ComposeAppsError):
    """Bytes are not what their digest says, and no local copy mends it."""

    exit_code = 6


class SpaceError(ComposeAppsError):
    """A file system has no room for what is asked."""

    exit_code = 7


class EngineError(ComposeAppsError):
    """Docker, containerd or Compose answered with an error, or not at all."""

    exit_code = 8


class UnsupportedError(EngineError):
    """The kernel or the engine lacks what sealed layers need; starting it anew does not help."""


class UpdateFailedError(ComposeAppsError):
    """A release did not pass its gate; the device is back on the previous one."""

    exit_code = 9


class BusyError(ComposeAppsError):
    """Another composeapps process holds the writer's lock."""

    exit_code = 10


class SealError(ComposeAppsError):
    """A layer cannot be made into a sealed layer exactly as the engine would unpack it."""

    exit_code = 11


class UnhealthyError(ComposeAppsError):
    """An app that should run is not healthy."""

    exit_code = 12


class StateError(ComposeAppsError):
    """The state on disk cannot be read, or was written by a newer agent."""

    exit_code = 13


class NewerStateError(StateError):
    """The state on disk was written by a newer agent and is left as it is."""


class DamagedStateError(StateError):
    """The state on disk is not what was written; it is moved aside and begun anew."""
