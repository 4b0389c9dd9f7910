"""What the tests of the state share."""

from __future__ import annotations

from composeapps.state import State

DIGEST = "sha256:" + "a" * 64


OTHER = "sha256:" + "b" * 64


#: How to get to each state by allowed steps.
WAYS = {
    "pending": "",
    "fetching": "fetching",
    "fetched": "fetching fetched",
    "installing": "fetching fetched installing",
    "starting": "fetching fetched installing starting",
    "rolling-back": "fetching fetched installing rolling-back",
    "committed": "fetching fetched installing starting committed",
    "failed": "failed",
}


def bring(db: State, wanted: str, digest: str = DIGEST) -> None:
    """Take a new release to a state."""
    db.add_release(digest, "stable", 1, b"document")
    for step in WAYS[wanted].split():
        db.advance(digest, step)
