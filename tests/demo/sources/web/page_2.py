"""What a visitor sees, version 2: a template, and numbers as the visitor's language has them."""

import os

from babel.numbers import format_decimal
from jinja2 import Environment

VERSION = 2
LANGUAGE = os.environ.get("LANGUAGE", "en")
PAGE = Environment(autoescape=True).from_string(
    "<h1>{{ greeting }}</h1><p>version 2, visit {{ visits }}</p>"
)


def render(greeting, visits):
    """Return the page."""
    return PAGE.render(greeting=greeting, visits=format_decimal(visits, locale=LANGUAGE))


def problem(store):
    """Return what is wrong, or nothing."""
    return "" if store.command("PING") == b"PONG" else "the store does not answer PING"
