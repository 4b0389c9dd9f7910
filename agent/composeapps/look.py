"""One look for a release: small files that nobody has verified yet, within one budget for all.

TUF metadata is fetched by name; whoever asks verifies it. What is bounded here is what a hostile
server can cost: the time and the bytes of a whole look, however many files it is led through.
"""

from __future__ import annotations

import math
import re
import time

from composeapps import oci, urls
from composeapps.answers import STATIC_MISSING, Request, Response, Tls
from composeapps.config import SourceSettings
from composeapps.directory import read_file
from composeapps.errors import SettingsError
from composeapps.pacing import Pace, persist
from composeapps.transport import Transport

#: RFC 9110, 8.8.3: an opaque quoted string; we keep short ones only.
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{0,256}"')


class Look:
    """Fetches small files; ``Source.get`` says how."""

    def __init__(self, settings: SourceSettings, tls: Tls, transport: Transport) -> None:
        self._settings = settings
        self._tls = tls
        self._transport = transport
        self._left = 0
        self._deadline = 0.0
        self._last = -math.inf

    def get(self, url: str, limit: int, etag: str) -> Response:
        """Return one file; see ``Source.get``."""
        if url.startswith(urls.UNSET):
            raise SettingsError("no source is set: set source.url in the settings")
        path = urls.local_path(url)
        if path is not None:
            body = read_file(path, limit)
            own = f'"{oci.digest_of(body)}"'
            return Response(304, {}, b"", own) if etag == own else Response(200, {}, body, own)
        if time.monotonic() - self._last > self._settings.check_timeout:
            self._deadline = time.monotonic() + self._settings.check_timeout
            self._left = self._settings.check_bytes
        pace = Pace(self._settings.attempts, self._transport.bounds, deadline=self._deadline)
        try:
            response = persist(lambda: self._get_once(url, min(limit, self._left), etag), pace)
        finally:
            self._last = time.monotonic()
        self._left -= len(response.body)
        return response

    def _get_once(self, url: str, limit: int, etag: str) -> Response:
        known = etag if _ETAG.fullmatch(etag) else ""
        seconds = self._transport.bounds.small_seconds(self._settings.timeout, limit)
        request = Request(
            url,
            limit,
            headers={"If-None-Match": known} if known else {},
            tls=self._tls,
            deadline=min(self._deadline, time.monotonic() + seconds),
        )
        accepted = (200, 304) if known else (200,)
        answer = self._transport.fetch(request, *accepted, missing=STATIC_MISSING)
        given = answer.headers.get("etag", "").strip()
        new = given if _ETAG.fullmatch(given) else ""
        return Response(answer.status, answer.headers, answer.body, new)
