"""What a visitor sees, version 1."""

from markupsafe import escape

VERSION = 1


def render(greeting, visits):
    """Return the page."""
    return f"<h1>{escape(greeting)}</h1><p>version 1, visit {visits}</p>"


def problem(store):
    """Return what is wrong, or nothing."""
    return "" if store.command("PING") == b"PONG" else "the store does not answer PING"
