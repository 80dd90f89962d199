"""Starts the measured programs, reads their CPU time and memory, and terminates them."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BENCH = Path(__file__).parent
CLOCK_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def server_cores():
    """Returns the core that is reserved for the measured server."""
    return {min(os.sched_getaffinity(0))}


def load_cores():
    """Returns the cores for everything else; the server's if there is only one."""
    return os.sched_getaffinity(0) - server_cores() or server_cores()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A child process that runs on the given cores."""

    def __init__(self, command, cores, *, environment=None, **options):
        self.process = subprocess.Popen(
            [str(part) for part in command],
            env={**os.environ, **(environment or {})},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
            **options,
        )

    def cpu_seconds(self):
        """Returns the user and system time of all threads since the start."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS_PER_SECOND

    def resident_kilobytes(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"^VmRSS:\s+(\d+)", status, re.MULTILINE)[1])

    def terminate(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            # It may be stopped.
            self.process.kill()
            self.process.wait()


class Issuer(Process):
    """The test issuer. It writes one file of tokens per kind to `folder`: `good`, `wrong-signature`, and so on."""

    def __init__(self, programs, folder, tokens):
        self.folder = Path(folder)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        super().__init__([programs / "issuer", folder, tokens], load_cores(), **pipes)
        self.url = self.process.stdout.readline().strip()

    def key_fetches(self):
        """Returns how often the keys have been fetched."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


class Server(Process):
    """A server that answers anyone at `/`, and callers with a valid token at `/private`."""

    def __init__(self, name, command, **options):
        """`command` is a function from the port to the command line."""
        self.name = name
        self.port = free_port()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        super().__init__(command(self.port), server_cores(), **quiet, **options)

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def wait_until_listening(self):
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            if self.process.poll() is not None:
                raise SystemExit(f"{self.name} ended with exit code {self.process.returncode} at its start")
            time.sleep(0.05)
        raise SystemExit(f"{self.name} does not listen on port {self.port} after 10 s")


@contextlib.contextmanager
def terminated(processes):
    """Terminates the processes at the end of the block, also if that is a SIGTERM; more may be added within it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()


@contextlib.contextmanager
def running_issuer(programs, tokens):
    with tempfile.TemporaryDirectory() as folder:
        with terminated([Issuer(programs, folder, tokens)]) as [issuer]:
            yield issuer
