"""The outbox: outcomes are delivered when there is a network, at least once, each under its id."""

from __future__ import annotations

import json
import logging

from composeapps.device import Device
from composeapps.errors import ConfigError, SourceError, SpaceError

log = logging.getLogger(__name__)
#: Events in one delivery.
BATCH = 100


def report(device: Device) -> int:
    """Deliver the events that are not delivered yet to ``report.url``; without one, to nobody.

    Returns:
        how many were delivered.

    Raises:
        SourceError: the server did not take them; they stay.
    """
    url = device.settings.report.url
    delivered = 0
    while url:
        events = device.state.events(unsent=True, limit=BATCH)
        if not events:
            break
        body = {
            "device": device.id,
            "events": [
                {"id": e.id, "time": e.time, "kind": e.kind, "body": dict(e.body)} for e in events
            ],
        }
        device.source.post(url, json.dumps(body, sort_keys=True).encode())
        device.state.mark_sent([event.id for event in events])
        delivered += len(events)
    return delivered


def try_report(device: Device) -> None:
    """Deliver what can be delivered now; what cannot stays for the next time.

    Whatever stands in its way, it is not what came of the work that is reported.
    """
    try:
        report(device)
    except SourceError as error:
        log.info("events are not delivered yet: %s", error)
    except (ConfigError, SpaceError) as error:  # a certificate is missing, or the disk is full
        log.warning("events are not delivered: %s", error)
