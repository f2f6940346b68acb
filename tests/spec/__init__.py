"""Models of the bell, the cursor and the lease, and a command that exhausts them."""
