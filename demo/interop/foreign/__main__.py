"""Checks `auth-server` with clients of other makers.

`python demo/interop/foreign AUTH_SERVER [TEXT…]` makes the checks whose names contain one of the texts, or all of them.
"""

import signal
import sys

import envoy_proxy
import http_clients
from checks import Checks
from programs import temporary_folder


def main():
    program, *texts = sys.argv[1:]
    checks = Checks(texts)
    # So that servers and folders are removed at SIGTERM as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with temporary_folder() as folder:
        http_clients.run(checks, program, folder)
        envoy_proxy.run(checks, program, folder)
    return 1 if checks.failed else 0


sys.exit(main())
