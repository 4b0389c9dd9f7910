"""The maker's web server for crash tests: a site, and a place that takes reports.

``python crashsite.py SITE POSTS PORT`` serves the directory SITE, appends each POST to the file
POSTS as a line, and writes its port to the file PORT. While SITE is not there (renamed) it answers
503 to everything, as a network that is down.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from servers import Asked, HttpServer, Reply, ranged


def main(site: Path, posts: Path, port: Path) -> None:
    """Serve until killed."""
    lock = threading.Lock()

    def answer(asked: Asked) -> Reply:
        if not site.is_dir():
            return Reply(503)
        if asked.method == "POST":
            with lock, posts.open("ab") as file:
                file.write(asked.body + b"\n")
            return Reply(204)
        file_ = site / asked.target.partition("?")[0].lstrip("/")
        return ranged(asked, file_.read_bytes()) if file_.is_file() else Reply(404)

    server = HttpServer(answer)
    temporary = port.with_suffix(".new")
    temporary.write_text(str(server.port))
    temporary.rename(port)
    threading.Event().wait()


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
