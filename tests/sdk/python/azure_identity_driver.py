"""Gets tokens in the same way as an app with azure-identity: see README.md in the parent folder."""

import azure.identity
from azure.core.pipeline.transport import RequestsTransport
from azure.identity import DefaultAzureCredential, ManagedIdentityCredential

import driver


class Redirecting(RequestsTransport):
    def send(self, request, **kwargs):
        request.url = driver.redirected(request.url)
        return super().send(request, **kwargs)


def source(request: dict):
    selector = request.get("selector")
    if request.get("chain"):
        credential = DefaultAzureCredential(transport=Redirecting())
    else:
        credential = ManagedIdentityCredential(identity_config=selector, transport=Redirecting())

    def get_token():
        token = credential.get_token(request["resource"] + "/.default")
        return token.token, token.expires_on

    return get_token


driver.run(azure.identity.__version__, source)
