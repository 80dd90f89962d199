"""curl, requests and plain sockets with h11 as clients of `auth-server`, over HTTP/1.1 and HTTP/2."""

import io
import json
import re
import socket
import subprocess
import threading
import time

import h11
import pycurl
import requests
import requests.adapters
import urllib3
from werkzeug.datastructures import WWWAuthenticate

from issuer import AUDIENCE, Issuer, Key
from programs import AuthServer, wait_until

MEGABYTE = 1024 * 1024
# The status for a body that is announced to be too large, with or without a token.
TOO_LARGE = 413
REFUSAL_TEXT = b"401 - Unauthorized"
RESOURCE = "https://auth-server.example/v1"
METADATA = "/.well-known/oauth-protected-resource/v1"

# What curl prints after each transfer.
REPORT = "\n%{http_code} %{num_connects} %{size_upload} %{http_version} %{exitcode}\n"
# Spellings of a guarded path, none of which may be answered without a token.
SPELLINGS = ["/private", "/private/", "//private", "/./private", "/x/../private", "/%70rivate", "/PRIVATE", "/private;a",
             "/private%00", "/private?a", "/private%2f", "/private#", "/whoami"]


class Curl:
    """The response to a request of curl."""

    def __init__(self, server, *arguments, path="/private", protocol="--http1.1", stdin=None, more=()):
        urls = [f"{server.url}{path}", *(f"{server.url}{path}" for path in more)]
        command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "30", protocol]
        command += ["--disable", "--include", "--path-as-is", "--write-out", REPORT, *arguments]
        # `--disable` has to be the first argument.
        command.remove("--disable")
        command.insert(1, "--disable")
        done = subprocess.run([*command, *urls], input=stdin, capture_output=True, check=False)
        self.text = done.stdout.decode(errors="replace")
        self.error = done.stderr.decode(errors="replace")
        self.exit_code = done.returncode
        reports = re.findall(r"^(\d{3}) (\d+) (\d+) ([\d.]+) (\d+)$", self.text, re.MULTILINE)
        self.statuses = [int(report[0]) for report in reports]
        self.connects = [int(report[1]) for report in reports]
        self.uploaded = [int(report[2]) for report in reports]
        self.versions = [report[3] for report in reports]

    @property
    def status(self):
        return self.statuses[0] if len(self.statuses) == 1 and self.exit_code == 0 else (self.statuses, self.error)

    def header(self, name):
        return re.findall(rf"^{name}: (.*?)\r$", self.text, re.MULTILINE | re.IGNORECASE)


def bearer(token, scheme="Bearer "):
    return ["--header", f"Authorization: {scheme}{token}"]


def check_curl(checks, server, issuer):
    token, other = issuer.token(), issuer.token(aud="https://other.example")
    expired = issuer.token(exp=int(time.time()) - 100)
    unsigned = token.rpartition(".")[0] + "."
    cases = {
        "a valid token": (bearer(token), "/private", 200),
        "a valid token with --oauth2-bearer": (["--oauth2-bearer", token], "/private", 200),
        "the scheme in lower case": (bearer(token, "bearer "), "/private", 200),
        "the scheme in upper case": (bearer(token, "BEARER "), "/private", 200),
        "white space after the token": (bearer(f"{token} \t "), "/private", 200),
        "white space in front of the scheme": (bearer(token, "  \t Bearer "), "/private", 200),
        "no token": ([], "/private", 401),
        "an empty header": (["--header", "Authorization;"], "/private", 401),
        "the scheme alone": (["--header", "Authorization: Bearer"], "/private", 401),
        "Basic credentials": (["--user", "name:password"], "/private", 401),
        "Digest credentials": (["--header", 'Authorization: Digest username="a"'], "/private", 401),
        "a token without a scheme": (["--header", f"Authorization: {token}"], "/private", 401),
        "the token as a password": (["--user", f"bearer:{token}"], "/private", 401),
        "two spaces after the scheme": (bearer(token, "Bearer  "), "/private", 400),
        "a tab after the scheme": (bearer(token, "Bearer\t"), "/private", 400),
        "a colon after the scheme": (bearer(token, "Bearer: "), "/private", 400),
        "a quoted token": (bearer(f'"{token}"'), "/private", 401),
        "a token with a comma and another": (bearer(f"{token}, Bearer {token}"), "/private", 400),
        "two headers": (bearer(token) * 2, "/private", 400),
        "two headers of which one is Basic": ([*bearer(token), "--header", "Authorization: Basic eDp5"], "/private", 400),
        "a token in the query": ([], f"/private?access_token={token}", 400),
        "a token in the query beside a valid one": (bearer(token), f"/private?access_token={token}", 400),
        "a token in the form": (["--data", f"access_token={token}"], "/private", 401),
        "a token in Proxy-Authorization": (["--header", f"Proxy-Authorization: Bearer {token}"], "/private", 401),
        "a token in a cookie": (["--cookie", f"access_token={token}"], "/private", 401),
        "an expired token": (bearer(expired), "/private", 401),
        "a token for another audience": (bearer(other), "/private", 401),
        "a token without a signature": (bearer(unsigned), "/private", 401),
        "a token of 24 kB": (bearer("a" * 24_000), "/private", 401),
        "a valid token of 16 kB": (bearer(issuer.token(filler="x" * 11_900)), "/private", 200),
        "HEAD with a token": (["--head", *bearer(token)], "/private", 200),
        "HEAD without a token": (["--head"], "/private", 401),
        "OPTIONS without a token": (["--request", "OPTIONS"], "/private", 401),
        "DELETE without a token": (["--request", "DELETE"], "/private", 401),
        "POST without a token": (["--data", "a=b"], "/private", 401),
        "POST with a token": (["--data", "a=b", *bearer(token)], "/private", 405),
        "the open route": ([], "/", 200),
        "the open route with an invalid token": (bearer("x"), "/", 200),
        "an unknown path": ([], "/unknown", 404),
    }
    for protocol, version in [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2"), ("--http2", "1.1")]:
        for name, (arguments, path, expected) in cases.items():
            if "--data" in arguments and protocol == "--http2-prior-knowledge":
                # See `LibCurl`.
                continue
            response = Curl(server, *arguments, path=path, protocol=protocol)
            checks.check(f"curl {protocol}: {name}", (expected, [version]), (response.status, response.versions))
        invalid = Curl(server, *bearer(expired), protocol=protocol)
        challenge = 'Bearer realm="protected", error="invalid_token", error_description="the token has expired", '
        challenge += f'resource_metadata="https://auth-server.example{METADATA}"'
        checks.check(f"curl {protocol}: the challenge for an expired token", [challenge], invalid.header("www-authenticate"))
        checks.check(f"curl {protocol}: a refusal is not cached", ["no-store"], invalid.header("cache-control"))
        # HEAD has the header fields of GET, and no body.
        head = Curl(server, "--head", protocol=protocol)
        get = Curl(server, protocol=protocol)
        fields = lambda response: [  # noqa: E731
            response.header(name) for name in ("content-type", "content-length", "www-authenticate", "cache-control")
        ]
        checks.check(f"curl {protocol}: HEAD has the header fields of GET", fields(get), fields(head))
        checks.that(f"curl {protocol}: a refusal of HEAD has no body", "401 - Unauthorized" not in head.text, head.text)
        for path in SPELLINGS:
            response = Curl(server, path=path, protocol=protocol)
            refused = response.statuses in ([400], [401], [404])
            checks.that(f"curl {protocol}: no token, {path}", refused, (response.statuses, response.error))
        if protocol != "--http2-prior-knowledge":
            check_curl_connections(checks, server, token, protocol)


def check_curl_connections(checks, server, token, protocol):
    # `--next` ends the arguments of the first request.
    report = ["--silent", "--include", "--noproxy", "*", "--write-out", REPORT, protocol]
    reused = Curl(server, protocol=protocol, more=["/private", "/"])
    checks.check(f"curl {protocol}: a connection is used again after refusals", ([401, 401, 200], [1, 0, 0]),
                 (reused.statuses, reused.connects))
    then_valid = Curl(server, "--data", "a=b", f"{server.url}/private", "--next", *report, *bearer(token), protocol=protocol)
    checks.check(f"curl {protocol}: a valid request follows a refused POST on its connection", ([401, 200], [1, 0]),
                 (then_valid.statuses, then_valid.connects))
    body = b"x" * (8 * MEGABYTE)
    for size, status in [(50_000, 401), (len(body), TOO_LARGE)]:
        expect = Curl(server, "--header", "Expect: 100-continue", "--expect100-timeout", "20", "--data-binary", "@-",
                      protocol=protocol, stdin=body[:size])
        checks.check(f"curl {protocol}: a refusal instead of 100 Continue for {size} bytes, which are not sent", (status, [0]),
                     (expect.status, expect.uploaded))
    for name, status, arguments in [
        ("with a length", TOO_LARGE, ["--data-binary", "@-"]),
        ("in chunks", 401, ["--upload-file", "-"]),
    ]:
        # Repeated, because a reset of the connection would overtake the response only sometimes.
        uploads = [Curl(server, "--header", "Expect:", *arguments, protocol=protocol, stdin=body) for _ in range(5)]
        found = [upload.status for upload in uploads]
        checks.check(f"curl {protocol}: the refusal of an upload {name} arrives", [status] * 5, found)


class LibCurl:
    """A newer libcurl, over HTTP/2. That of Debian 12 (7.88) fails with any server that is contacted with prior knowledge when it
    uses a connection again or when the response precedes the end of the upload."""

    def __init__(self):
        self.curl = pycurl.Curl()

    def request(self, server, token=None, path="/private", body=None, length=None):
        """Returns the status and the number of connections that were opened, or the error."""
        curl, received = self.curl, io.BytesIO()
        curl.reset()
        curl.setopt(pycurl.URL, f"{server.url}{path}")
        curl.setopt(pycurl.PROXY, "")
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE)
        curl.setopt(pycurl.WRITEDATA, received)
        headers = ["Expect:"]
        if token:
            headers.append(f"Authorization: Bearer {token}")
        curl.setopt(pycurl.HTTPHEADER, headers)
        if body is not None:
            curl.setopt(pycurl.UPLOAD, 1)
            curl.setopt(pycurl.CUSTOMREQUEST, "POST")
            curl.setopt(pycurl.READDATA, io.BytesIO(body))
            if length is not None:
                curl.setopt(pycurl.INFILESIZE, length)
        try:
            curl.perform()
        except pycurl.error as error:
            return str(error), None
        version = curl.getinfo(pycurl.INFO_HTTP_VERSION)
        assert version == pycurl.CURL_HTTP_VERSION_2_0, version
        return curl.getinfo(pycurl.RESPONSE_CODE), curl.getinfo(pycurl.NUM_CONNECTS)


def check_libcurl(checks, server, issuer):
    token, client = issuer.token(), LibCurl()
    checks.check("libcurl, HTTP/2: no token", (401, 1), client.request(server))
    checks.check("libcurl, HTTP/2: a connection is used again after a refusal", (200, 0), client.request(server, token))
    found = [client.request(server, body=b"a=b", length=3) for _ in range(20)]
    checks.check("libcurl, HTTP/2: the refusal of a short body arrives", [(401, 0)] * 20, found)
    found = client.request(server, token, body=b"a=b", length=3)
    checks.check("libcurl, HTTP/2: a method that does not exist", (405, 0), found)
    body = b"x" * (8 * MEGABYTE)
    for name, length, status in [("with a length", len(body), TOO_LARGE), ("of unknown length", None, 401)]:
        # Each leaves the window of the connection as it was, or else a later one would stop.
        found = [client.request(server, body=body, length=length) for _ in range(10)]
        checks.check(f"libcurl, HTTP/2: the refusal of an upload {name} arrives", [(status, 0)] * 10, found)
    checks.check("libcurl, HTTP/2: the connection is used again after refused uploads", (200, 0), client.request(server, token))
    multi, streams = pycurl.CurlMulti(), []
    multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)
    multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, 1)
    for number in range(200):
        stream = pycurl.Curl()
        stream.setopt(pycurl.URL, f"{server.url}/private")
        stream.setopt(pycurl.PROXY, "")
        stream.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE)
        stream.setopt(pycurl.PIPEWAIT, 1)
        stream.setopt(pycurl.WRITEDATA, io.BytesIO())
        if number % 2:
            stream.setopt(pycurl.HTTPHEADER, [f"Authorization: Bearer {token}"])
        multi.add_handle(stream)
        streams.append(stream)
    running = 1
    while running:
        _, running = multi.perform()
        multi.select(1.0)
    found = [stream.getinfo(pycurl.RESPONSE_CODE) for stream in streams]
    opened = sum(stream.getinfo(pycurl.NUM_CONNECTS) for stream in streams)
    checks.check("libcurl, HTTP/2: 200 requests on one connection", ([401, 200] * 100, 1), (found, opened))


def challenge_of(response):
    return WWWAuthenticate.from_header(response.headers["www-authenticate"])


class Bearer(requests.auth.AuthBase):
    def __init__(self, token):
        self.token = token

    def __call__(self, request):
        request.headers["authorization"] = f"Bearer {self.token}"
        return request


def session():
    """Returns a session that ignores the settings of this machine's user."""
    session = requests.Session()
    session.trust_env = False
    return session


def connections(session, server):
    """Returns the number of connections that a session has opened."""
    pools = session.get_adapter(server.url).poolmanager.pools
    return sum(pools[key].num_connections for key in pools.keys())


def check_requests(checks, server, issuer):
    url, valid = f"{server.url}/private", Bearer(issuer.token())
    with session() as client:
        response = client.get(url, auth=valid)
        checks.check("requests: a valid token", (200, "caller"), (response.status_code, response.json()["caller"]["subject"]))
        for name, auth, status, parameters in [
            ("no token", None, 401, {}),
            ("Basic credentials", ("name", "password"), 401, {}),
            ("an expired token", Bearer(issuer.token(exp=int(time.time()) - 100)), 401,
             {"error": "invalid_token", "error_description": "the token has expired"}),
            ("another audience", Bearer(issuer.token(aud="other")), 401,
             {"error": "invalid_token", "error_description": "the token is for another audience"}),
            ("a malformed request", Bearer(" x"), 400,
             {"error": "invalid_request",
              "error_description": "malformed request: `Bearer` is not followed by one space and a token"}),
        ]:
            response = client.get(url, auth=auth)
            checks.check(f"requests: {name}", (status, f"{status} - {response.reason}"), (response.status_code, response.text))
            challenge = challenge_of(response)
            expected = {"realm": "protected", **parameters, "resource_metadata": f"https://auth-server.example{METADATA}"}
            checks.check(f"requests: werkzeug reads the challenge for {name}", ("bearer", expected),
                         (challenge.type, dict(challenge.parameters)))
            by_requests = requests.utils.parse_dict_header(response.headers["www-authenticate"].partition(" ")[2])
            checks.check(f"requests: requests reads the challenge for {name}", expected, by_requests)
        checks.check("requests: one connection for all of these", 1, connections(client, server))

        many = [client.post(url, data=b"x" * 1000).status_code for _ in range(20)]
        many += [client.get(url, auth=valid).status_code]
        checks.check("requests: a connection is used again after small refused bodies", ([401] * 20 + [200], 1),
                     (many, connections(client, server)))

    def chunks():
        for _ in range(512):
            yield b"x" * 16384

    for name, status, body in [("with a length", TOO_LARGE, b"x" * (8 * MEGABYTE)), ("in chunks", 401, chunks)]:
        found = []
        for _ in range(5):
            with session() as client:
                try:
                    found.append(client.post(url, data=body() if callable(body) else body).status_code)
                except requests.ConnectionError as error:
                    found.append(str(error))
        checks.check(f"requests: the refusal of an upload {name} arrives", [status] * 5, found)

    with session() as client:
        redirect = f"{issuer.url}/redirect/{server.port}/private"
        response = client.get(redirect, auth=valid)
        checks.check("requests: a redirect from another origin arrives without the token", (401, 1),
                     (response.status_code, len(response.history)))
        followed = Curl(server, "--location", *bearer(issuer.token()), redirect, path="/")
        checks.check("curl: a redirect from another origin arrives without the token", [401, 200], followed.statuses)

    threads, statuses = [], []

    def work(number):
        with session() as client:
            for request in range(20):
                auth, expected = ((valid, 200), (None, 401))[(number + request) % 2]
                statuses.append(client.get(url, auth=auth).status_code == expected)

    for number in range(8):
        threads.append(threading.Thread(target=work, args=(number,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    checks.check("requests: eight clients at a time", [True] * 160, statuses)


def check_endpoints(checks, server, issuer):
    with session() as client:
        ready = client.get(f"{server.url}/readyz")
        checks.check("requests: /readyz", (200, "ready", "no-store"),
                     (ready.status_code, ready.text, ready.headers["cache-control"]))
        checks.check("requests: /healthz", (200, "ok"), (client.get(f"{server.url}/healthz").status_code,
                                                        client.get(f"{server.url}/healthz").text))
        challenge = challenge_of(client.get(f"{server.url}/private"))
        path = urllib3.util.parse_url(challenge.parameters["resource_metadata"]).path
        metadata = client.get(f"{server.url}{path}")
        expected = {"resource": RESOURCE, "authorization_servers": [issuer.url], "bearer_methods_supported": ["header"]}
        is_json = metadata.headers["content-type"] == "application/json"
        checks.check("requests: the metadata that the challenge names (RFC 9728)", (200, expected),
                     (metadata.status_code, metadata.json() if is_json else metadata.text))
        # A client finds the issuer's keys from there.
        if is_json:
            discovery = client.get(f"{metadata.json()['authorization_servers'][0]}/.well-known/openid-configuration")
            checks.check("requests: the discovery document that the metadata names", issuer.url, discovery.json()["issuer"])
        metrics = client.get(f"{server.url}/metrics").text
        checks.that("requests: /metrics", re.search(r"^oidc_guard_\w+\{", metrics, re.MULTILINE), metrics[:200])


def exchange(server, *parts):
    """Sends bytes on one connection and then a last request, unless the server closes the connection before. Returns the statuses of
    the responses, as h11 reads them; that of the last request is `LAST`."""
    received = b""
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        try:
            for part in [*parts, raw(path="/last", headers=["Connection: close"])]:
                connection.sendall(part)
        except ConnectionError:
            # What the server has sent before can still be read.
            pass
        try:
            while data := connection.recv(65536):
                received += data
        except ConnectionError as error:
            return [*responses(received), type(error).__name__]
    return responses(received)


def responses(received):
    """Reads responses to GET requests with h11, one after the other."""
    found = []
    while received:
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
        reader.send(h11.EndOfMessage())
        reader.receive_data(received)
        while True:
            event = reader.next_event()
            if isinstance(event, h11.InformationalResponse):
                found.append(event.status_code)
            elif isinstance(event, h11.Response):
                found.append(event.status_code)
            elif event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                return [*found, "incomplete"]
            elif isinstance(event, h11.EndOfMessage):
                received = reader.trailing_data[0]
                break
    return found


# The status of a path that does not exist.
LAST = 404


def raw(method="GET", path="/private", headers=(), body=b""):
    lines = [f"{method} {path} HTTP/1.1", "Host: auth-server.example", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def check_raw(checks, server, issuer):
    token = issuer.token()
    valid, none = raw(headers=[f"Authorization: Bearer {token}"]), raw()
    pipelined = exchange(server, b"".join([valid, none, valid, raw(headers=["Authorization: Basic eDp5"]), none, valid]))
    checks.check("h11: pipelined requests are answered in order", [200, 401, 200, 401, 401, 200, LAST], pipelined)

    smuggled = raw(path="/", headers=["X-Smuggled: 1"])
    for name, request in {
        "a length": raw("POST", headers=[f"Content-Length: {len(smuggled)}"], body=smuggled),
        "chunks": raw("POST", headers=["Transfer-Encoding: chunked"], body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(smuggled), smuggled)),
    }.items():
        found = exchange(server, request)
        checks.check(f"h11: a request within a refused body with {name} is not answered", [401, LAST], found)
        found = exchange(server, request[:-10], request[-10:] + valid)
        checks.check(f"h11: the request after a refused body with {name} is answered", [401, 200, LAST], found)
    both = ["Content-Length: 4", "Transfer-Encoding: chunked"]
    found = exchange(server, raw("POST", headers=both, body=b"0\r\n\r\n" + smuggled))
    checks.that("h11: a body with a length and chunks hides no request", 200 not in found[:-1] and found[0] in (400, 401), found)
    for name, lengths in {"two lengths": ["4", "5"], "a list of lengths": ["4, 5"], "a signed length": ["+4"], "a hexadecimal length": ["0x4"]}.items():
        headers = [f"Content-Length: {length}" for length in lengths]
        found = exchange(server, raw("POST", headers=headers, body=b"abcd" + smuggled))
        checks.check(f"h11: a request with {name} is malformed", [400], found)
    for name, chunks in {
        "a chunk without a size": b"\r\n\r\n",
        "a chunk with a negative size": b"-4\r\nabcd\r\n0\r\n\r\n",
        "a chunk that is too large": b"ffffffffffffffffff\r\nabcd",
        "a chunk that is longer than its size": b"2\r\nabcd\r\n0\r\n\r\n",
    }.items():
        found = exchange(server, raw("POST", headers=["Transfer-Encoding: chunked"], body=chunks) + smuggled)
        checks.check(f"h11: {name} ends the connection after the refusal", [401], found[:1] if found[1:] in ([], ["ConnectionResetError"]) else found)

    bytes_token = token.encode()
    for name, header in {
        "a folded value": b"Authorization: Bearer\r\n " + bytes_token,
        "a folded token": b"Authorization: Bearer " + bytes_token[:50] + b"\r\n\t" + bytes_token[50:],
        "a space in front of the colon": b"Authorization : Bearer " + bytes_token,
        "a line feed in the value": b"Authorization: Bearer " + bytes_token + b"\n X: y",
        "a carriage return in the value": b"Authorization: Bearer " + bytes_token[:50] + b"\r" + bytes_token[50:],
        "a null byte in the value": b"Authorization: Bearer " + bytes_token + b"\0",
        "a null byte in the name": b"Authorization\0: Bearer " + bytes_token,
        "a byte that is not ASCII": b"Authorization: Bearer " + bytes_token + b"\xff",
        "a no-break space": b"Authorization: Bearer\xc2\xa0" + bytes_token,
        "a header of 2 MB": b"Authorization: Bearer " + b"a" * (2 * MEGABYTE),
        "a head of 3,000 headers": b"".join(b"X-%d: y\r\n" % number for number in range(3000)) + b"X: y",
    }.items():
        found = exchange(server, b"GET /private HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n\r\n")
        # The server need not read a head that is too large, or malformed, to its end.
        refused = found[:1] in ([400], [401], [431]) or found == ["ConnectionResetError"]
        checks.that(f"h11: {name} is refused", refused and 200 not in found, found)
    found = exchange(server, b"GET /private HTTP/1.1\r\nHost: x\r\naUtHoRiZaTiOn:Bearer " + bytes_token + b"\r\n\r\n")
    checks.check("h11: the name in mixed case, and no space after the colon", [200, LAST], found)
    found = exchange(server, b"GET /private HTTP/1.0\r\nAuthorization: Bearer " + bytes_token + b"\r\n\r\n")
    checks.check("h11: HTTP/1.0", [200], found[:1] if found[1:] in ([], ["ConnectionResetError"]) else found)
    found = exchange(server, b"GET /private HTTP/1.0\r\n\r\n")
    checks.check("h11: HTTP/1.0 without a token", [401], found[:1] if found[1:] in ([], ["ConnectionResetError"]) else found)
    found = exchange(server, b"GET http://other.example/private HTTP/1.1\r\nHost: x\r\n\r\n")
    checks.check("h11: an absolute URL without a token", [401, LAST], found)

    # A client that has read the refusal may send the body or omit it, so what follows must be taken neither for the body nor for a request.
    head = raw("POST", headers=["Expect: 100-continue", f"Content-Length: {len(smuggled)}"])
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(head)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    checks.check("h11: the refusal arrives instead of 100 Continue, and the connection ends", ([401], True),
                 (responses(received), b"connection: close" in received.lower()))
    for body in (smuggled, b""):
        # A reset of the connection may overtake the refusal.
        found = exchange(server, head, body)
        checks.check(f"h11: after such a refusal, {len(body)} bytes and a request are not answered", [], [
            status for status in found if status not in (401, "ConnectionResetError", "incomplete")])
    check_slow_upload(checks, server)


def check_slow_upload(checks, server):
    """The refusal arrives while the client sends, and the client can read it after it has sent more."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(raw("POST", headers=["Transfer-Encoding: chunked"]) + b"1\r\nx\r\n")
        first = connection.recv(12)
        checks.check("h11: the refusal arrives before the body is complete", b"HTTP/1.1 401", first)
        sent, failed = 0, None
        try:
            # Less than a client sends until it looks for a response, and more than the buffers of both sides.
            for _ in range(128):
                connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                sent += 65536
        except ConnectionError as error:
            failed = error
        checks.that("h11: 8 MB sent after the refusal cause no reset", failed is None, f"{sent} bytes, then {failed}")
        rest = b""
        try:
            while not rest.endswith(REFUSAL_TEXT):
                data = connection.recv(65536)
                if not data:
                    break
                rest += data
        except ConnectionError as error:
            failed = error
        checks.that("h11: and the refusal can be read afterwards", rest.endswith(REFUSAL_TEXT), failed or rest)


def check_retries(checks, program, folder):
    """urllib3 repeats a request after the time in `Retry-After`."""
    issuer = Issuer([Key.ec("one")], status=503)
    with AuthServer(program, folder, issuer) as server, session() as client:
        url = f"{server.url}/private"
        ready = client.get(f"{server.url}/readyz")
        checks.check("requests: /readyz without keys", 503, ready.status_code)
        # The first fetch may not have failed yet.
        deadline = time.monotonic() + 10
        while "503" not in ready.text and time.monotonic() < deadline:
            time.sleep(0.05)
            ready = client.get(f"{server.url}/readyz")
        checks.that("requests: /readyz says why", "503" in ready.text and issuer.url in ready.text, ready.text)
        response = client.get(url, auth=Bearer(issuer.token()))
        checks.check("requests: without keys", 503, response.status_code)
        checks.that("requests: Retry-After is a number of seconds", 1 <= int(response.headers["retry-after"]) <= 60,
                    response.headers)
        checks.check("requests: without keys there is no challenge", None, response.headers.get("www-authenticate"))
        checks.check("requests: without keys, no token is still 401", 401, client.get(url).status_code)
        retries = urllib3.Retry(10, status_forcelist=[503], respect_retry_after_header=True)
        client.mount("http://", requests.adapters.HTTPAdapter(max_retries=retries))
        threading.Timer(0.3, lambda: setattr(issuer, "status", 200)).start()
        response = client.get(url, auth=Bearer(issuer.token()))
        repeated = len(response.raw.retries.history)
        checks.check("requests: a request is repeated until there are keys", 200, response.status_code)
        checks.that("requests: no sooner than Retry-After says", repeated <= 5, repeated)
        ready = wait_until(lambda: client.get(f"{server.url}/readyz").status_code == 200)
        checks.check("requests: /readyz with keys", True, ready)


def check_shutdown(checks, program, folder, issuer):
    """A client with an open connection does not see the end of the server as a failed request."""
    with AuthServer(program, folder, issuer, grace=5) as server, session() as client:
        server.wait_until_ready()
        url, auth = f"{server.url}/private", Bearer(issuer.token())
        client.get(url, auth=auth)
        server.process.terminate()
        ended = wait_until(lambda: server.process.poll() is not None)
        checks.check("requests: the server ends although a connection is open", True, ended)
        checks.check("requests: the exit code of the server", 0, server.process.poll())
        try:
            client.get(url, auth=auth)
            failed = None
        except requests.ConnectionError as error:
            failed = "Connection refused" in str(error) or str(error)
        checks.check("requests: a later request finds no server", True, failed)


def run(checks, program, folder):
    issuer = Issuer([Key.ec("one")])
    with AuthServer(program, folder, issuer, resource=RESOURCE) as server:
        server.wait_until_ready()
        checks.run("curl", check_curl, server, issuer)
        checks.run("libcurl", check_libcurl, server, issuer)
        checks.run("requests", check_requests, server, issuer)
        checks.run("requests", check_endpoints, server, issuer)
        checks.run("h11", check_raw, server, issuer)
        text = json.dumps(server.log.read_text())
        checks.that("curl: the log of the server contains no token", "eyJ" not in text, "a token is in the log")
    checks.run("requests", check_retries, program, folder)
    checks.run("requests", check_shutdown, program, folder, Issuer([Key.ec("one")]))


__all__ = ["AUDIENCE", "run"]
