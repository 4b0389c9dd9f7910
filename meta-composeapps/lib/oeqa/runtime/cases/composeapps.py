# SPDX-License-Identifier: MIT
"""The agent on a running image: its units, its apps, and that nothing of it listens."""

import json
import time

from oeqa.core.decorator.depends import OETestDepends
from oeqa.runtime.case import OERuntimeTestCase
from oeqa.runtime.decorator.package import OEHasPackage

UNITS = "composeapps-mount composeapps-start composeapps docker containerd"
# What composeapps ends with while another of its commands is at work; and for how long, in seconds.
BUSY, PATIENCE = 10, 600


class ComposeappsTest(OERuntimeTestCase):
    """One test image, booted."""

    def output(self, command, timeout=300):
        """Run a command that has to succeed and return what it printed."""
        status, output = self.target.run(command, timeout)
        self.assertEqual(status, 0, msg="%s: %s" % (command, output))
        return output

    @OEHasPackage(["composeapps"])
    @OETestDepends(["ssh.SSHTest.test_ssh"])
    def test_units_are_active(self):
        """The agent and the engine were started at boot."""
        for unit in UNITS.split():  # of several, one that is active would do
            self.output("systemctl is-active %s" % unit)

    @OETestDepends(["composeapps.ComposeappsTest.test_units_are_active"])
    def test_status_is_healthy(self):
        """The release of the image is current and its apps are healthy."""
        status = json.loads(self.output("composeapps --json status"))
        self.assertTrue(status.get("current") or status.get("release"), msg=status)
        deadline = time.monotonic() + PATIENCE
        while True:
            code, output = self.target.run("composeapps verify", 300)
            if code != BUSY or time.monotonic() > deadline:
                break
            time.sleep(5)
        self.assertEqual(code, 0, msg=output)

    @OETestDepends(["composeapps.ComposeappsTest.test_units_are_active"])
    def test_the_agent_does_not_listen(self):
        """No TCP or UDP socket belongs to the agent."""
        sockets = self.output("ss -Htlnp || netstat -tlnp")
        self.assertNotIn("composeapps", sockets)

    @OETestDepends(["composeapps.ComposeappsTest.test_units_are_active"])
    def test_root_is_read_only_and_data_is_not(self):
        """The root file system refuses writes, the data partition takes them."""
        status, _ = self.target.run("touch /usr/share/composeapps/probe")
        self.assertNotEqual(status, 0)
        self.output("touch /var/lib/composeapps/probe && rm /var/lib/composeapps/probe")
