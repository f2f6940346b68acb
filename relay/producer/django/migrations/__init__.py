"""The outbox by ``manage.py migrate``."""
