"""The relay's settings: what they are, where they come from, and what is wrong with them.

    flags > environment > TOML file > defaults          Settings.load(flags, environ)
    values of an application                            Settings(poll_interval="100ms")

``Settings`` in ``model`` is authoritative: it holds each name, kind, bound, default and
description once; the command line's flags and every table of settings are made from it.
``relay.errors.SettingsError`` says all faults at once, one line a fault. No secret is ever part of
a fault, a warning or a repr.
"""

from relay.settings.model import Settings

__all__ = ["Settings"]
