"""The app: its name in migrations, and its check."""

from django.apps import AppConfig
from django.core import checks


class RelayOutbox(AppConfig):
    """The outbox as an app of Django. It has no models."""

    name = "relay.producer.django"
    label = "relay_outbox"
    verbose_name = "Relay outbox"

    def ready(self) -> None:
        """Register the check."""
        from relay.producer.django.checks import outbox_is_there

        checks.register(outbox_is_there, checks.Tags.database)
