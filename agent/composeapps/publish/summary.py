"""What ``composeapps-publish show`` tells of a repository."""

from __future__ import annotations

from typing import Any

from tuf.api.metadata import Metadata, Targets

from composeapps.publish.repofiles import RepoFiles
from composeapps.publish.signing import Draft, current_keys
from composeapps.tufclient import TIME_FORMAT


def summary(files: RepoFiles, draft: Draft) -> dict[str, Any]:
    """Return roles, channels, and what waits for signatures, fit for JSON.

    Raises:
        TrustError: the file of a release is missing or was changed.
    """
    published = draft.published
    metadata: dict[str, Metadata[Any] | None] = {
        "root": published.root,
        **published.roles,
        "snapshot": published.snapshot,
        "timestamp": published.timestamp,
    }
    waiting = [draft.missing(role, one) for role, one in draft.pending.items()]
    return {
        "roles": {
            role: _role(draft, role, one) for role, one in metadata.items() if one is not None
        },
        "channels": {
            name: _channel(files, name, one.signed)
            for name, one in sorted(published.roles.items())
            if name != "targets"
        },
        "pending": sorted(draft.pending),
        "missing": [vars(one) for one in waiting if one is not None],
    }


def _role(draft: Draft, role: str, metadata: Metadata[Any]) -> dict[str, Any]:
    keys = current_keys(draft.delegators(role)[-1], role)  # the published one
    return {
        "version": metadata.signed.version,
        "expires": metadata.signed.expires.strftime(TIME_FORMAT),
        "threshold": keys.threshold,
        "keys": [{"keyid": key.keyid, "scheme": key.scheme} for key in keys.keys],
    }


def _channel(files: RepoFiles, name: str, metadata: Targets) -> dict[str, Any]:
    release = files.release(name, metadata)
    if release is None:
        return {"version": 0, "apps": {}}
    apps = {app: one.artifact for app, one in release.apps.items()}
    return {"version": release.version, "apps": apps}
