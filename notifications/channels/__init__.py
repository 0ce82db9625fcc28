"""How messages leave: one module a channel."""
