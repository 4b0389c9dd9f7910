"""What a visitor sees, version 3, which never becomes healthy: nobody shipped the migration."""

from page_2 import render as render

VERSION = 3


def problem(store):
    """Return what is wrong, or nothing."""
    if store.command("GET", "schema") != b"3":
        return "the store's schema is older than 3: run the migration first"
    return ""
