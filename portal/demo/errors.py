"""What stops the demo, in words for the person who started it."""


class DemoError(Exception):
    """The demo cannot start or go on; the text says why and what to do."""
