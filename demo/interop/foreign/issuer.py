"""An OIDC issuer that shares no code with this repository: PyJWT signs, and `http.server` serves the documents."""

import base64
import contextlib
import http.server
import json
import threading
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

AUDIENCE = "https://auth-server.example"


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Key:
    """A private key with its `kid` and algorithm."""

    def __init__(self, kid, algorithm, private):
        self.kid, self.algorithm, self.private = kid, algorithm, private

    @classmethod
    def rsa(cls, kid, algorithm="RS256", bits=2048):
        return cls(kid, algorithm, rsa.generate_private_key(65537, bits))

    @classmethod
    def ec(cls, kid, algorithm="ES256", curve=ec.SECP256R1):
        return cls(kid, algorithm, ec.generate_private_key(curve()))

    @classmethod
    def ed25519(cls, kid):
        return cls(kid, "EdDSA", ed25519.Ed25519PrivateKey.generate())

    def jwk(self):
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        public = json.loads(algorithm.to_jwk(self.private.public_key()))
        public.pop("key_ops", None)
        return {**public, "kid": self.kid, "use": "sig", "alg": self.algorithm}

    def sign(self, claims, header=None, algorithm=None):
        """Signs claims. Parameters of the header with the value `None` are left out."""
        algorithm = algorithm or self.algorithm
        header = {"typ": "JWT", "kid": self.kid, "alg": algorithm, **(header or {})}
        header = {name: value for name, value in header.items() if value is not None}
        return self.sign_bytes(json.dumps(header).encode(), json.dumps(claims).encode(), algorithm)

    def sign_bytes(self, header, payload, algorithm=None):
        """Signs a header and a payload that need not be JSON."""
        signed = f"{base64url(header)}.{base64url(payload)}"
        name = algorithm or self.algorithm
        signature = jwt.get_algorithm_by_name(name).sign(signed.encode(), self.private)
        return f"{signed}.{base64url(signature)}"


class Issuer:
    """Serves a discovery document and a key set on loopback. `keys` and `status` may be changed at any time."""

    def __init__(self, keys, status=200):
        self.keys = list(keys)
        self.status = status
        self.key_fetches = 0
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                issuer.respond(self)

            def log_message(self, *_):
                pass

            def handle(self):
                # A client may close its connection at any time.
                with contextlib.suppress(ConnectionError):
                    super().handle()

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def respond(self, request):
        documents = {
            "/.well-known/openid-configuration": lambda: {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/jwks",
                "id_token_signing_alg_values_supported": ["RS256", "PS256", "ES256", "ES384", "EdDSA"],
            },
            "/jwks": lambda: {"keys": [key.jwk() for key in self.keys]},
        }
        redirect = request.path.partition("/redirect/")[2]
        body = b""
        if redirect:
            # Redirects to a port of 127.0.0.1.
            request.send_response(307)
            request.send_header("location", f"http://127.0.0.1:{redirect}")
        elif self.status != 200 or request.path not in documents:
            request.send_response(self.status if self.status != 200 else 404)
        else:
            self.key_fetches += request.path == "/jwks"
            body = json.dumps(documents[request.path]()).encode()
            request.send_response(200)
            request.send_header("content-type", "application/json")
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def claims(self, **changes):
        """Returns valid claims with some of them replaced, or removed if the new value is `None`."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "sub": "caller",
            "aud": AUDIENCE,
            "iat": now,
            "nbf": now,
            "exp": now + 600,
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, key=None, **changes):
        """Returns a valid token, with some claims replaced."""
        return (key or self.keys[0]).sign(self.claims(**changes))
