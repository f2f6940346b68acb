"""Files of settings and of secrets."""

import pytest


@pytest.fixture
def toml(tmp_path):
    def write(text):
        path = tmp_path / "relay.toml"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def secret_file(tmp_path):
    def write(text, mode=0o600):
        path = tmp_path / f"secret-{len(list(tmp_path.iterdir()))}"
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    return write
