"""What all tests share."""

from __future__ import annotations

import signal

# Who starts the tests in the background may have SIGINT ignored, and children inherit that; but
# what Ctrl-C does to them is among the things that are tested.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.servers.fixtures"]
