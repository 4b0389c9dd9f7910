"""How apps are named on the command line."""

from __future__ import annotations

from collections.abc import Sequence

from composeapps.errors import UsageError
from composeapps.oci import Reference


def named_apps(texts: Sequence[str]) -> dict[str, Reference]:
    """Read ``[NAME=]REF@DIGEST``; a name is else the last part of the repository's."""
    found: dict[str, Reference] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        reference = Reference.parse(rest if equals else text)
        if not reference.digest:
            raise UsageError(f"{text} has no digest: name the app as composeapps-publish app said")
        name = name if equals else reference.repository.rpartition("/")[2]
        if name in found:
            raise UsageError(f"two apps are called {name}: write NAME={text}")
        found[name] = reference
    return found
