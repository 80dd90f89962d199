"""Starts the programs under test, and ends them."""

import contextlib
import json
import os
import re
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import envoy

ENVOY = Path(envoy.__file__).parent / "_bin" / "envoy"
# How long a program may take to start, on a busy machine.
LIMIT = 30


def wait_until(condition, limit=LIMIT):
    """Waits until a condition holds, and returns its value, or that of the last attempt."""
    end = time.monotonic() + limit
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(0.02)


def is_listening(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_ports(count):
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Program:
    """A child process, which ends with a `with` block."""

    def __init__(self, command, log):
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.upper().endswith("_PROXY")
        }
        self.log = Path(log)
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def wait_for(self, condition):
        """Waits until a condition holds, and fails if it does not or if the program ends."""
        ended = lambda: self.process.poll() is not None  # noqa: E731
        wait_until(lambda: condition() or ended())
        if ended() or not condition():
            raise RuntimeError(f"{self.process.args[0]} did not start:\n{self.log.read_text()}")


class AuthServer(Program):
    """The server of this repository, which trusts an issuer."""

    def __init__(self, program, folder, issuer, *, port=0, resource=None, grace=1):
        config = Path(folder) / f"guard-{issuer.port}.json"
        settings = {
            "issuers": [
                {
                    "url": issuer.url,
                    "audiences": ["https://auth-server.example"],
                    "insecure_loopback_http": True,
                }
            ],
            "allow": ["allAuthenticatedUsers"],
        }
        if resource:
            settings["protected_resource"] = resource
        config.write_text(json.dumps(settings))
        command = [program, "--address", "127.0.0.1", "--port", port, "--config", config]
        super().__init__([*command, "--grace-seconds", grace], Path(folder) / f"server-{issuer.port}.log")
        self.wait_for(self.listening)
        self.port = self.listening()
        self.url = f"http://127.0.0.1:{self.port}"

    def listening(self):
        plain = re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text())
        found = re.search(r"listening address=127\.0\.0\.1:(\d+)", plain)
        return found and int(found[1])

    def wait_until_ready(self):
        import requests

        ready = lambda: requests.get(f"{self.url}/readyz", timeout=5).status_code == 200  # noqa: E731
        self.wait_for(ready)


class Envoy(Program):
    """Envoy with listeners and clusters, given as in its configuration."""

    def __init__(self, folder, listeners, clusters):
        config = Path(folder) / "envoy.json"
        resources = {"listeners": listeners, "clusters": clusters}
        config.write_text(json.dumps({"static_resources": resources}))
        ports = [listener["address"]["socket_address"]["port_value"] for listener in listeners]
        # Without hot restart, because other processes of Envoy may run on this machine.
        command = [ENVOY, "--config-path", config, "--disable-hot-restart", "--concurrency", 1]
        super().__init__([*command, "--log-level", "warning"], Path(folder) / "envoy.log")
        self.wait_for(lambda: all(map(is_listening, ports)))


@contextlib.contextmanager
def temporary_folder():
    with tempfile.TemporaryDirectory(prefix="foreign-clients-") as folder:
        yield Path(folder)
