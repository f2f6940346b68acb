"""The outbox."""

from typing import ClassVar

from django.db import migrations
from django.db.migrations.operations.base import Operation

from relay.producer.django.outbox import BringUpToDate


class Migration(migrations.Migration):
    """Makes the outbox, unless it is there."""

    initial = True
    dependencies: ClassVar[list[tuple[str, str]]] = []
    operations: ClassVar[list[Operation]] = [BringUpToDate()]
