"""Metrics and spans by OpenTelemetry's conventions; nothing of it is imported while it is off."""
