"""google-auth (https://github.com/googleapis/google-auth-library-python) at a Security Token Service and IAM Credentials."""

import json
import os
from unittest import mock

from google.auth import exceptions, iam, identity_pool, impersonated_credentials
from google.auth.transport.requests import Request

CONFIGURATION = os.environ["INTEROP_CONFIGURATION"]
URL = os.environ["INTEROP_URL"]
AUDIENCE = os.environ["INTEROP_AUDIENCE"]
SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]

with open(CONFIGURATION, encoding="utf-8") as file:
    INFO = json.load(file)
ACCOUNT = INFO["service_account_impersonation_url"].rsplit("/", 1)[1].split(":")[0]


def result(credentials):
    try:
        credentials.refresh(Request())
    except exceptions.GoogleAuthError as error:
        return {"failed": type(error).__name__, "message": " ".join(str(part) for part in error.args)}
    expiry = credentials.expiry.isoformat() if credentials.expiry else None
    return {"token": credentials.token, "expiry": expiry}


def federated(**members):
    """Returns credentials that are exchanged, but not impersonated."""
    info = {name: value for name, value in INFO.items() if name != "service_account_impersonation_url"}
    return identity_pool.Credentials.from_info({**info, **members}, scopes=SCOPES)


def impersonated(source, account=ACCOUNT):
    endpoint = INFO["service_account_impersonation_url"].replace(ACCOUNT, account)
    return impersonated_credentials.Credentials(source, account, SCOPES, iam_endpoint_override=endpoint)


def identity(include_email):
    """Returns the result for an identity token, whose endpoint is a constant of the library."""
    endpoint = URL + "/v1/projects/-/serviceAccounts/{}:generateIdToken"
    with mock.patch.object(iam, "_IAM_IDTOKEN_ENDPOINT", endpoint):
        target = impersonated(federated())
        target.refresh(Request())
        return result(
            impersonated_credentials.IDTokenCredentials(
                target, target_audience=AUDIENCE, include_email=include_email
            )
        )


other_pool = INFO["audience"].replace("workloadIdentityPools/pool", "workloadIdentityPools/other")
print(
    json.dumps(
        {
            "access": result(identity_pool.Credentials.from_file(CONFIGURATION, scopes=SCOPES)),
            "federated": result(federated()),
            "identity": identity(include_email=False),
            "identity_with_email": identity(include_email=True),
            "other_provider": result(federated(audience=other_pool)),
            "other_account": result(impersonated(federated(), "other@project.iam.gserviceaccount.com")),
        }
    )
)
