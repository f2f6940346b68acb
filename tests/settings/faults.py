"""What ``Settings.load`` finds wrong."""

import pytest

from relay.errors import SettingsError
from relay.settings import Settings

CANARY = "c4n4ry-in-the-mine"


def faults(*args, **kwargs):
    with pytest.raises(SettingsError) as caught:
        Settings.load(*args, **kwargs)
    assert str(caught.value) == "\n".join(caught.value.faults)
    return caught.value.faults
