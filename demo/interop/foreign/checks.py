"""Records the results of checks, one line for each."""

import re
import sys
import threading
import traceback

# A JWT, or the start of one, which no output may contain.
TOKEN = re.compile(r"eyJ[\w-]{8,}[\w.-]*")


class Checks:
    """Prints a line for each check whose name contains one of the texts, or for all if there are none."""

    def __init__(self, texts=()):
        self.texts = list(texts)
        self.failed = 0
        self.lock = threading.Lock()

    def check(self, name, expected, actual):
        """Compares a value with the expected one."""
        self.that(name, expected == actual, f"expected {expected!r}, found {actual!r}")

    def that(self, name, holds, detail=""):
        """Records whether a condition holds."""
        if self.texts and not any(text in name for text in self.texts):
            return
        self.record(None if holds else detail, name)

    def run(self, name, function, *arguments):
        """Calls a function that makes checks. An exception is a failed check."""
        try:
            function(self, *arguments)
        except Exception:  # noqa: BLE001
            self.record(traceback.format_exc(), name)

    def record(self, failure, name):
        with self.lock:
            if failure is None:
                line = f"ok      {name}"
            else:
                self.failed += 1
                line = f"FAILED  {name}: {TOKEN.sub('(token)', str(failure))}"
            # In one write, because threads make checks at the same time.
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
