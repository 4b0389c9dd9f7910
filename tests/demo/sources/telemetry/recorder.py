"""Appends every reading to a file; a reading is acknowledged only once it is on the medium."""

import os
import signal
import sys
from pathlib import Path

import paho.mqtt.client as mqtt

FILE = Path("/data/telemetry.jsonl")
SUBSCRIBED = Path("/tmp/subscribed")


def repair(file):
    """Cut off what a power cut left half written, and make the file's name durable."""
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
    os.fsync(file.fileno())
    directory = os.open(FILE.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def main():
    """Record until told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    SUBSCRIBED.unlink(missing_ok=True)
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "recorder", clean_session=False)
    client.reconnect_delay_set(1, 5)
    with FILE.open("ab+") as file:
        repair(file)

        def record(client, userdata, message):
            file.write(message.payload + b"\n")
            file.flush()
            os.fsync(file.fileno())

        client.on_connect = lambda *_: client.subscribe("telemetry/#", qos=1)
        client.on_subscribe = lambda *_: SUBSCRIBED.touch()
        client.on_disconnect = lambda *_: SUBSCRIBED.unlink(missing_ok=True)
        client.on_message = record
        client.connect_async(os.environ["BROKER"])
        client.loop_forever(retry_first_connection=True)


if __name__ == "__main__":
    main()
