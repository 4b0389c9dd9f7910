"""An OCI image layout on any static web server, as a place to fetch from.

Content lies at ``blobs/sha256/<hex>`` (image-spec, image layout); manifests are blobs too.
"""

from __future__ import annotations

from composeapps import urls
from composeapps.answers import STATIC_MISSING, Request, Tls
from composeapps.oci import hex_of
from composeapps.places import Stream, Wanted
from composeapps.transport import Transport, open_content, range_header


class WebLayout:
    """A layout on a web server; ranges are used where the server has them."""

    def __init__(self, url: str, tls: Tls, transport: Transport) -> None:
        """Set it up; raises ConfigError where the URL cannot be used."""
        self._base = urls.base(url)
        self._tls = tls
        self._transport = transport
        self.name = f"layout {self._base}"

    def open(self, wanted: Wanted) -> Stream:
        """Start to read content; raises SourceError or IntegrityError."""
        request = Request(
            f"{self._base}/blobs/sha256/{hex_of(wanted.digest)}",
            wanted.limit,
            headers=range_header(wanted),
            tls=self._tls,
            deadline=wanted.deadline,
            stop=wanted.stop,
        )
        return open_content(self._transport.send(request), wanted, STATIC_MISSING)
