"""The errors of the throw-away servers."""

from relay.errors import RelayError


class DevstackError(RelayError):
    """A throw-away server is not installed, or could not be started, stopped or run as asked."""


class PortBusyError(DevstackError):
    """Somebody else listens on the port that the server was to have."""
