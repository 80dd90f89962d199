"""kubernetes (https://github.com/kubernetes-client/python) at the TokenRequest API of an API server."""

import datetime
import json
import os

from kubernetes import client
from kubernetes.client.exceptions import ApiException

NAMESPACE = "shop"


def api(token):
    configuration = client.Configuration(host=os.environ["INTEROP_API_SERVER"])
    configuration.api_key["authorization"] = token
    configuration.api_key_prefix["authorization"] = "Bearer"
    return client.CoreV1Api(client.ApiClient(configuration))


def result(core, account="orders", **spec):
    body = client.AuthenticationV1TokenRequest(
        spec=client.V1TokenRequestSpec(audiences=["https://stock.example"], **spec)
    )
    now = datetime.datetime.now(datetime.timezone.utc)
    try:
        response = core.create_namespaced_service_account_token(account, NAMESPACE, body)
    except ApiException as error:
        return {"status": error.status, "reason": error.reason, "body": json.loads(error.body)}
    return {
        "token": response.status.token,
        "expires_in": (response.status.expiration_timestamp - now).total_seconds(),
        "expiration_seconds": response.spec.expiration_seconds,
    }


authorized = api(os.environ["INTEROP_TOKEN"])
pod = client.V1BoundObjectReference(
    kind="Pod", api_version="v1", name="orders-1", uid=os.environ["INTEROP_POD_UID"]
)
print(
    json.dumps(
        {
            "unbound": result(authorized),
            "bound": result(authorized, bound_object_ref=pod, expiration_seconds=900),
            "short": result(authorized, expiration_seconds=60),
            "forbidden": result(authorized, account="stock"),
            "unauthorized": result(api("not-a-token")),
        }
    )
)
