"""A static web server with entity tags, for one directory, with TLS where a certificate is given.

    python serve.py DIRECTORY [CERTIFICATE KEY]

Prints its port of 127.0.0.1 and serves until it is killed.
"""

from __future__ import annotations

import ssl
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from servers import StaticServer


def main() -> None:
    """Serve."""
    context = None
    if len(sys.argv) > 2:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[2], sys.argv[3])
    with StaticServer(Path(sys.argv[1]), context=context) as server:
        print(server.port, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
