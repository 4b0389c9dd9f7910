"""Runs in a testbed: runs one new container of an image to its end.

    python3 container.py IMAGE VOLUME WORD...

Prints JSON: seconds from the request to make it to its end, and what it printed. The container
sees the directory VOLUME as ``/bench``.
"""

import json
import sys
import time

import docker


def main() -> None:
    """Run the container."""
    image, volume, *words = sys.argv[1:]
    client = docker.from_env()
    api = client.api
    host = api.create_host_config(binds=[f"{volume}:/bench:ro"], network_mode="none")
    begun = time.monotonic()
    made = api.create_container(image, words, entrypoint=[], host_config=host)
    api.start(made["Id"])
    code = api.wait(made["Id"])["StatusCode"]
    seconds = time.monotonic() - begun
    said = api.logs(made["Id"]).decode()
    api.remove_container(made["Id"])
    if code:
        sys.exit(f"the container ended with {code}: {said}")
    print(json.dumps({"seconds": seconds, "said": said}))


if __name__ == "__main__":
    main()
