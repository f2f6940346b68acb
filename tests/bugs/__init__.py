"""Small wrong versions of the relay, and a command that shows that the tests catch each of them."""
