"""A model of everything that can happen to the relay, and the promises that must hold meanwhile."""
