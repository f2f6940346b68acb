"""The relay's settings: what they are, where they come from, and what is wrong with them.

    flags > environment > TOML file > defaults          Settings.load(flags, environ)
    values of an application                            Settings(poll_interval="100ms")

``Settings`` in ``model`` is authoritative: names, kinds, bounds, defaults and descriptions are said
there once; the command line's flags and every table of settings are made from it. Whatever is
wrong, all of it is said at once by ``relay.errors.SettingsError``, one line a fault. No secret is
ever part of a fault, a warning or a repr.
"""

from relay.settings.model import Settings

__all__ = ["Settings"]
