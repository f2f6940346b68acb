"""What each command does, one a file. A command imports what it needs when it runs."""
