"""For all tests: processes that tests interrupt must hear SIGINT.

A run that a shell starts in the background inherits an ignored SIGINT and would hand it on.
"""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
