"""Publishes readings; what the broker does not take now is kept and sent later."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import paho.mqtt.client as mqtt
import readings

PUBLISHED = Path("/tmp/published")


def main():
    """Publish until told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "publisher")
    client.reconnect_delay_set(1, 5)
    client.max_queued_messages_set(1000)
    client.on_publish = lambda *_: PUBLISHED.touch()
    client.connect_async(os.environ["BROKER"])
    client.loop_start()
    number = 0
    while True:
        number += 1
        document = {"version": readings.VERSION, "number": number, "time": time.time()}
        client.publish("telemetry/device", json.dumps(document | readings.read()), qos=1)
        time.sleep(float(os.environ.get("INTERVAL", "1")))


if __name__ == "__main__":
    main()
