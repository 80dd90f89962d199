"""azure-identity (https://github.com/Azure/azure-sdk-for-python), which uses MSAL, at a token endpoint of Microsoft Entra ID.

Both require https, so the requests go through a server in this program that terminates TLS.
"""

import datetime
import http.client
import http.server
import ipaddress
import json
import os
import ssl
import tempfile
import threading

from azure.identity import ClientAssertionCredential, WorkloadIdentityCredential
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

AUTHORITY = os.environ["INTEROP_AUTHORITY"]
TENANT = os.environ["INTEROP_TENANT_ID"]
CLIENT = os.environ["INTEROP_CLIENT_ID"]
ASSERTION = os.environ["INTEROP_ASSERTION"]
OTHER_ASSERTION = os.environ["INTEROP_OTHER_ASSERTION"]


class Proxy(http.server.BaseHTTPRequestHandler):
    """Forwards requests to the authority, and replaces http by https in the URLs of its responses."""

    def forward(self):
        length = int(self.headers.get("content-length") or 0)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        connection = http.client.HTTPConnection(AUTHORITY.removeprefix("http://"))
        connection.request(self.command, self.path, self.rfile.read(length), headers)
        response = connection.getresponse()
        body = response.read().replace(b"http://127.0.0.1", b"https://127.0.0.1")
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = forward

    def log_message(self, *_):
        pass


def write_certificate(folder):
    """Writes a certificate for 127.0.0.1 with its key, and returns the path."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    path = os.path.join(folder, "server.pem")
    with open(path, "wb") as file:
        file.write(certificate.public_bytes(serialization.Encoding.PEM))
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return path


def result(credential, scope):
    try:
        token = credential.get_token(scope)
        return {"token": token.token, "expires_on": token.expires_on}
    except Exception as error:  # pylint: disable=broad-except
        return {"failed": type(error).__name__, "message": str(error)}


def main():
    with tempfile.TemporaryDirectory() as folder:
        certificate = write_certificate(folder)
        token_file = os.path.join(folder, "token")
        with open(token_file, "w", encoding="utf-8") as file:
            file.write(ASSERTION)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = {
            "authority": f"https://127.0.0.1:{server.server_port}",
            "disable_instance_discovery": True,
            "connection_verify": certificate,
        }

        def assertion(text, tenant=TENANT, client=CLIENT):
            return ClientAssertionCredential(tenant, client, lambda: text, **settings)

        workload = WorkloadIdentityCredential(
            tenant_id=TENANT, client_id=CLIENT, token_file_path=token_file, **settings
        )
        print(
            json.dumps(
                {
                    "workload": result(workload, "api://orders/.default"),
                    "assertion": result(assertion(ASSERTION), "api://stock/.default"),
                    "other_subject": result(assertion(OTHER_ASSERTION), "api://orders/.default"),
                    "other_client": result(assertion(ASSERTION, client=TENANT), "api://orders/.default"),
                    "other_tenant": result(assertion(ASSERTION, tenant=CLIENT), "api://orders/.default"),
                    "scope_without_default": result(assertion(ASSERTION), "api://orders"),
                    "unknown_resource": result(assertion(ASSERTION), "api://unknown/.default"),
                }
            )
        )


main()
