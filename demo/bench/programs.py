"""Programs under measurement: started, asked what they have used, ended."""

import contextlib
import os
import re
import socket
import subprocess
import tempfile
import time
from pathlib import Path

BENCH = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")


def cores():
    """The server's and the load's: on one machine they keep out of each other's way."""
    usable = sorted(os.sched_getaffinity(0))
    return {usable[0]}, set(usable[1:]) or {usable[0]}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Program:
    """A process of its own on the server's core, or on the load's."""

    def __init__(self, command, *, of_load=False, environment=None, **options):
        use = cores()[of_load]
        self.process = subprocess.Popen(
            [str(part) for part in command],
            env={**os.environ, **(environment or {})},
            preexec_fn=lambda: os.sched_setaffinity(0, use),
            **options,
        )

    def cpu_seconds(self):
        """User and system time of all its threads so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident_kilobytes(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"^VmRSS:\s+(\d+)", status, re.MULTILINE)[1])

    def end(self):
        self.process.terminate()
        self.process.wait()


class Issuer(Program):
    """Has its tokens in files of its folder, a kind each."""

    def __init__(self, programs, folder, tokens):
        self.folder = Path(folder)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        super().__init__([programs / "issuer", folder, tokens], of_load=True, **pipes)
        self.url = self.process.stdout.readline().strip()

    def key_fetches(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


class Server(Program):
    """Answers at / and, to whom it lets in, at /private."""

    def __init__(self, name, command, **options):
        """`command` takes the port and gives the words."""
        self.name = name
        self.port = free_port()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        super().__init__(command(self.port), **quiet, **options)

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def wait(self):
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise SystemExit(f"{self.name} does not listen")


@contextlib.contextmanager
def running(started):
    """Ends all of them, whatever happens."""
    try:
        yield started
    finally:
        for program in started:
            program.end()


@contextlib.contextmanager
def issuer(programs, tokens):
    with tempfile.TemporaryDirectory() as folder:
        with running([Issuer(programs, folder, tokens)]) as [started]:
            yield started
