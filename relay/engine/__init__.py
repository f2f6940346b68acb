"""What the relay does between its ports: lead, read, publish, settle, and sleep."""
