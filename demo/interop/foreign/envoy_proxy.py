"""Envoy in front of `auth-server`, and Envoy's own filter for tokens beside it.

The filter (`jwt_authn`) trusts the same issuer for the same audience. Both verify each token of a table, directly and through
Envoy as a proxy that speaks HTTP/1.1 or HTTP/2 to the server. They must agree, except for the differences that are listed with
their reasons.
"""

import base64
import concurrent.futures
import hmac
import http.client
import json
import threading
import time

import requests
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from http_clients import Bearer, session
from issuer import AUDIENCE, Issuer, Key, base64url
from programs import AuthServer, Envoy, free_ports, wait_until

API = "type.googleapis.com/envoy.extensions"

# Tokens that only one of the two accepts, and why.
GUARD, ENVOY = "the guard", "Envoy"
DIFFERENCES = {
    "algorithm: EdDSA, named by curve": (GUARD, "RFC 9864 names the algorithm of a key on Ed25519 `Ed25519`; Envoy knows `EdDSA` only"),
    "header: the type at+jwt": (ENVOY, "the guard accepts a token without a type or with JWT, unless `token_types` names others (RFC 8725, 3.11)"),
    "header: the type dpop+jwt": (ENVOY, "the same"),
    "header: crit with an unknown extension": (ENVOY, "Envoy does not read `crit`, which a verifier has to (RFC 7515, 4.1.11)"),
    "header: crit with b64": (ENVOY, "the same"),
    "claim: no exp": (ENVOY, "Envoy accepts a token that never expires, unless it is configured not to"),
    "claim: no sub": (ENVOY, "the guard identifies callers by `sub`"),
    "claim: issued in the future": (ENVOY, "Envoy does not read `iat`"),
    "claim: cnf": (ENVOY, "Envoy does not read `cnf`, so it accepts a token that is bound to its sender (RFC 7800) from anyone"),
}


def http_manager(port, name, cluster, *, filters=(), retries=None):
    """Returns a listener that forwards requests to a cluster."""
    route = {"cluster": cluster, "timeout": "30s", **({"retry_policy": retries} if retries else {})}
    routes = [
        # A redirect to the same origin.
        {"match": {"path": "/old"}, "redirect": {"path_redirect": "/private", "response_code": "TEMPORARY_REDIRECT"}},
        {"match": {"prefix": "/"}, "route": route},
    ]
    router = {"name": "router", "typed_config": {"@type": f"{API}.filters.http.router.v3.Router"}}
    manager = {
        "@type": f"{API}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]},
        "http_filters": [*filters, router],
    }
    return {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def cluster(name, port, *, http2=False, health_check=None):
    protocol = "http2_protocol_options" if http2 else "http_protocol_options"
    options = {"@type": f"{API}.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {protocol: {}},
               # Less than the time after which the server closes an idle connection, or a request may meet its end.
               "common_http_protocol_options": {"idle_timeout": "5s"}}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]},
        **({"health_checks": [health_check]} if health_check else {}),
    }


def jwt_filter(issuer):
    keys = {
        "http_uri": {"uri": f"{issuer.url}/jwks", "cluster": "issuer", "timeout": "5s"},
        "cache_duration": "1s",
        "async_fetch": {"fast_listener": False},
    }
    provider = {
        "issuer": issuer.url,
        "audiences": [AUDIENCE],
        "forward": True,
        "clock_skew_seconds": 60,
        "from_headers": [{"name": "Authorization", "value_prefix": "Bearer "}],
        "remote_jwks": keys,
    }
    rules = [{"match": {"prefix": "/"}, "requires": {"provider_name": "issuer"}}]
    config = {"@type": f"{API}.filters.http.jwt_authn.v3.JwtAuthentication", "providers": {"issuer": provider}, "rules": rules}
    return {"name": "jwt_authn", "typed_config": config}


class Verifiers:
    """The ways on which a token is verified: by the guard, directly and through Envoy, and by Envoy's filter."""

    def __init__(self, server, http1, http2, authn):
        guarded = [f"{server.url}/private", *(f"http://127.0.0.1:{port}/private" for port in (http1, http2))]
        # The filter is in front of a route that needs no token.
        self.urls = [*guarded, f"http://127.0.0.1:{authn}/"]

    def guard(self, token):
        """Returns the status that the guard returns directly."""
        return status_of(self.urls[0], token)

    def envoy(self, token):
        return status_of(self.urls[-1], token)


def status_of(url, token):
    with session() as client:
        return client.get(url, auth=Bearer(token)).status_code


def signature_changed(token):
    signed, _, signature = token.rpartition(".")
    changed = bytearray(base64.urlsafe_b64decode(signature + "=="))
    changed[10] ^= 1
    return f"{signed}.{base64url(changed)}"


def tokens(issuer, keys):
    """Returns the tokens with their names."""
    now = int(time.time())
    rsa, ps, es, es384, ed = keys
    unpublished = Key.ec("unpublished")
    same_kid = Key.ec(es.kid)
    claims = issuer.claims()
    valid = es.sign(claims)
    header, payload, signature = valid.split(".")
    # The public key as the secret of an HMAC.
    secret = es.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    symmetric = f"{base64url(json.dumps({'alg': 'HS256', 'kid': es.kid}).encode())}.{payload}"
    hs256 = f"{symmetric}.{base64url(hmac.digest(secret, symmetric.encode(), 'sha256'))}"

    def changed(**changes):
        return es.sign(issuer.claims(**changes))

    def headed(**parameters):
        return es.sign(claims, header=parameters)

    def raw_header(text):
        return es.sign_bytes(text.encode(), json.dumps(claims).encode())

    def raw_claims(text):
        return es.sign_bytes(json.dumps({"alg": "ES256", "kid": es.kid}).encode(), text.encode())

    object_text = json.dumps(claims)
    cases = {
        "valid: RS256": rsa.sign(claims),
        "valid: PS256": ps.sign(claims),
        "valid: ES256": valid,
        "valid: ES384": es384.sign(claims),
        "valid: EdDSA": ed.sign(claims),
        "valid: a token of 8 kB": changed(filler="x" * 6000),
        "algorithm: none": f"{base64url(json.dumps({'alg': 'none'}).encode())}.{payload}.",
        "algorithm: none with a signature": f"{base64url(json.dumps({'alg': 'none', 'kid': es.kid}).encode())}.{payload}.{signature}",
        "algorithm: HS256 with the public key": hs256,
        "algorithm: RS256 with the key for PS256": Key(ps.kid, "RS256", ps.private).sign(claims),
        "algorithm: ES384 with the key for ES256": raw_header(json.dumps({"alg": "ES384", "kid": es.kid})),
        "algorithm: missing": headed(alg=None),
        "algorithm: EdDSA, named by curve": ed.sign(claims, header={"alg": "Ed25519"}),
        "key: not published": unpublished.sign(claims),
        "key: another with the kid of a published one": same_kid.sign(claims),
        "key: the kid of another published key": es.sign(claims, header={"kid": es384.kid}),
        "key: in the header": unpublished.sign(claims, header={"jwk": unpublished.jwk(), "kid": None}),
        "signature: changed": signature_changed(valid),
        "signature: missing": f"{header}.{payload}.",
        "signature: of other claims": f"{header}.{base64url(json.dumps(issuer.claims(sub='admin')).encode())}.{signature}",
        "format: two parts": f"{header}.{payload}",
        "format: four parts": f"{valid}.{signature}",
        "format: no token": "x",
        "header: no type": headed(typ=None),
        "header: the type at+jwt": headed(typ="at+jwt"),
        "header: the type dpop+jwt": headed(typ="dpop+jwt"),
        "header: crit with an unknown extension": headed(crit=["x"], x=1),
        "header: crit with b64": headed(crit=["b64"], b64=True),
        "header: kid is a number": headed(kid=1),
        "header: a repeated parameter": raw_header(f'{{"alg":"ES256","kid":"{es.kid}","x":1,"x":2}}'),
        "header: not JSON": raw_header("{alg:ES256}"),
        "header: a list": raw_header('["ES256"]'),
        "claim: a repeated name": raw_claims(object_text[:-1] + ',"x":1,"x":2}'),
        "claim: not JSON": raw_claims("claims"),
        "claim: a list": raw_claims(f"[{object_text}]"),
        "claim: more after the object": raw_claims(object_text + "{}"),
        "claim: not UTF-8": es.sign_bytes(json.dumps({"alg": "ES256", "kid": es.kid}).encode(), object_text[:-1].encode() + b',"x":"\xff"}'),
        "claim: another issuer": changed(iss="https://other.example"),
        "claim: the issuer with a slash": changed(iss=f"{issuer.url}/"),
        "claim: the issuer in upper case": changed(iss=issuer.url.upper()),
        "claim: no issuer": changed(iss=None),
        "claim: the issuer in a list": changed(iss=[issuer.url]),
        "claim: another audience": changed(aud="https://other.example"),
        "claim: the audience in a list": changed(aud=[AUDIENCE]),
        "claim: several audiences": changed(aud=["other", AUDIENCE]),
        "claim: other audiences": changed(aud=["a", "b"]),
        "claim: the audience in upper case": changed(aud=AUDIENCE.upper()),
        "claim: a prefix of the audience": changed(aud=AUDIENCE[:-1]),
        "claim: no audience": changed(aud=None),
        "claim: an empty list of audiences": changed(aud=[]),
        "claim: the audience is a number": changed(aud=1),
        "claim: no exp": changed(exp=None),
        "claim: exp is text": changed(exp=str(now + 600)),
        "claim: exp is negative": changed(exp=-1),
        "claim: exp with a fraction": changed(exp=now + 600.5),
        "claim: expired within the tolerance": changed(exp=now - 20),
        "claim: expired": changed(exp=now - 120),
        "claim: not yet valid within the tolerance": changed(nbf=now + 30),
        "claim: not yet valid": changed(nbf=now + 600),
        "claim: nbf is text": changed(nbf=str(now)),
        "claim: no nbf": changed(nbf=None),
        "claim: no iat": changed(iat=None),
        "claim: issued in the future": changed(iat=now + 600),
        "claim: iat is text": changed(iat=str(now)),
        "claim: no sub": changed(sub=None),
        "claim: an empty sub": changed(sub=""),
        "claim: sub is a number": changed(sub=1),
        "claim: jti": changed(jti="id"),
        "claim: jti is a number": changed(jti=1),
        "claim: cnf": changed(cnf={"jkt": "x"}),
        "claim: others": changed(scope="a b", nested={"a": [1, 2, {"b": None}]}),
    }
    return cases


def check_table(checks, verifiers, issuer, keys):
    table = tokens(issuer, keys)
    sent = [(url, token) for token in table.values() for url in verifiers.urls]
    # At the same time, because a token with an unknown key waits for the next fetch of the keys.
    with concurrent.futures.ThreadPoolExecutor(len(sent)) as threads:
        results = iter(list(threads.map(lambda request: status_of(*request), sent)))
    for name in table:
        *statuses, status = [next(results) for _ in verifiers.urls]
        checks.check(f"Envoy: {name}: the same directly and through Envoy", [statuses[0]] * 3, statuses)
        found = {(True, False): GUARD, (False, True): ENVOY}.get((statuses[0] == 200, status == 200))
        listed, reason = DIFFERENCES.get(name, (None, "both decide in the same way"))
        checks.that(f"Envoy: {name}: {reason}", found == listed,
                    f"accepted only by {found}, listed as {listed}; guard {statuses}, Envoy {status}")
        if name.startswith("valid"):
            checks.check(f"Envoy: {name}: both accept", (200, 200), (statuses[0], status))
    checks.check("Envoy: each listed difference is in the table", set(), set(DIFFERENCES) - set(table))


def check_rotation(checks, verifiers, issuer):
    old, new = issuer.keys[2], Key.ec("rotated")
    token = new.sign(issuer.claims())
    issuer.keys.append(new)
    # Envoy fetches keys when its copy is a second old. The guard fetches when it sees the new key.
    checks.check("Envoy, rotation: the guard accepts the first token of a new key", 200, verifiers.guard(token))
    checks.check("Envoy, rotation: so does Envoy", True, wait_until(lambda: verifiers.envoy(token) == 200, 10))
    token = old.sign(issuer.claims())
    checks.check("Envoy, rotation: both still accept the old key", (200, 200), (verifiers.guard(token), verifiers.envoy(token)))
    unpublished = Key.ec("never published").sign(issuer.claims())
    checks.check("Envoy, rotation: neither accepts an unpublished key", (401, 401),
                 (verifiers.guard(unpublished), verifiers.envoy(unpublished)))


def check_proxy(checks, server, http1, http2, issuer):
    client, auth = session(), Bearer(issuer.token())
    for port, version in [(http1, "HTTP/1.1"), (http2, "HTTP/2")]:
        url = f"http://127.0.0.1:{port}"
        refused = client.get(f"{url}/private")
        direct = client.get(f"{server.url}/private")
        fields = ("www-authenticate", "cache-control", "content-type", "content-length")
        checks.check(f"Envoy, {version}: a refusal is forwarded as it is",
                     (direct.status_code, direct.text, *[direct.headers[name] for name in fields]),
                     (refused.status_code, refused.text, *[refused.headers[name] for name in fields]))
        redirected = client.get(f"{url}/old", auth=auth)
        checks.check(f"Envoy, {version}: a redirect to the same origin keeps the token", (200, 1),
                     (redirected.status_code, len(redirected.history)))
        for name, body in [("with a length", b"x" * 50_000), ("in chunks", lambda: (b"x" * 16384 for _ in range(64)))]:
            found = []
            for _ in range(5):
                try:
                    found.append(client.post(f"{url}/private", data=body() if callable(body) else body).status_code)
                except requests.ConnectionError as error:
                    found.append(str(error))
            checks.check(f"Envoy, {version}: the refusal of an upload {name} arrives", [401] * 5, found)
        mixed = [client.get(f"{url}/private", auth=auth if number % 2 else None).status_code for number in range(40)]
        checks.check(f"Envoy, {version}: refusals and other responses on one connection", [401, 200] * 20, mixed)
        for name, header in {
            "two spaces after the scheme": f"Bearer  {auth.token}",
            "a list of tokens": f"Bearer {auth.token}, Bearer {auth.token}",
        }.items():
            found = client.get(f"{url}/private", headers={"authorization": header}).status_code
            checks.check(f"Envoy, {version}: {name}", 400, found)
        folded = repeated_header(port, auth.token)
        checks.check(f"Envoy, {version}: a repeated header", 400, folded)


def repeated_header(port, token):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("GET", "/private")
    for _ in range(2):
        connection.putheader("authorization", f"Bearer {token}")
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status


def check_outage(checks, issuer, server, healthy, retrying):
    """An issuer that is not available at first: Envoy sends nothing to a server that is not ready, and repeats a request that
    got 503 after the time in `Retry-After`."""
    client, auth = session(), Bearer(issuer.token())
    url, retried = f"http://127.0.0.1:{healthy}/private", f"http://127.0.0.1:{retrying}/private"
    response = client.get(url, auth=auth)
    checks.check("Envoy: a server that is not ready gets no request", (503, "no healthy upstream"), (response.status_code, response.text))
    checks.check("Envoy: the server itself, without keys", 503, client.get(f"{server.url}/private", auth=auth).status_code)
    threading.Timer(0.5, lambda: setattr(issuer, "status", 200)).start()
    response = client.get(retried, auth=auth)
    attempts = int(response.headers.get("x-envoy-attempt-count", 0))
    checks.check("Envoy: a request is repeated until there are keys", 200, response.status_code)
    checks.that("Envoy: no sooner than Retry-After says", 1 <= attempts <= 5, attempts)
    ready = wait_until(lambda: client.get(url, auth=auth).status_code == 200)
    checks.check("Envoy: a server that has become ready gets requests", True, ready)


def run(checks, program, folder):
    keys = [Key.rsa("rs256"), Key.rsa("ps256", "PS256"), Key.ec("es256"), Key.ec("es384", "ES384", ec.SECP384R1), Key.ed25519("eddsa")]
    issuer, failing = Issuer(keys), Issuer([Key.ec("one")], status=503)
    http1, http2, authn, healthy, retrying = free_ports(5)
    retries = {
        "retry_on": "retriable-status-codes",
        "retriable_status_codes": [503],
        "num_retries": 10,
        "rate_limited_retry_back_off": {"reset_headers": [{"name": "retry-after", "format": "SECONDS"}], "max_interval": "10s"},
    }
    health_check = {
        "timeout": "5s",
        "interval": "0.2s",
        "no_traffic_interval": "0.2s",
        "unhealthy_threshold": 1,
        "healthy_threshold": 1,
        "http_health_check": {"path": "/readyz"},
    }
    with AuthServer(program, folder, issuer) as server, AuthServer(program, folder, failing) as waiting:
        server.wait_until_ready()
        retrying_listener = http_manager(retrying, "retrying", "retrying", retries=retries)
        manager = retrying_listener["filter_chains"][0]["filters"][0]["typed_config"]
        manager["route_config"]["virtual_hosts"][0]["include_attempt_count_in_response"] = True
        listeners = [
            http_manager(http1, "http1", "http1"),
            http_manager(http2, "http2", "http2"),
            http_manager(authn, "authn", "http1", filters=[jwt_filter(issuer)]),
            http_manager(healthy, "healthy", "healthy"),
            retrying_listener,
        ]
        clusters = [
            cluster("issuer", issuer.port),
            cluster("http1", server.port),
            cluster("http2", server.port, http2=True),
            cluster("healthy", waiting.port, health_check=health_check),
            cluster("retrying", waiting.port, http2=True),
        ]
        with Envoy(folder, listeners, clusters):
            verifiers = Verifiers(server, http1, http2, authn)
            checks.run("Envoy", check_outage, failing, waiting, healthy, retrying)
            checks.run("Envoy", check_proxy, server, http1, http2, issuer)
            checks.run("Envoy, rotation", check_rotation, verifiers, issuer)
            checks.run("Envoy", check_table, verifiers, issuer, keys[:5])
