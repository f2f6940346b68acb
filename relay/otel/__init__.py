"""What the relay tells about itself: logs, and the facts that go into them."""
