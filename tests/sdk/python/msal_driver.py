"""Gets tokens in the same way as an app with msal and no other library: see README.md in the parent folder."""

import time

import msal
import requests

import driver


class EndpointError(Exception):
    """The error of the endpoint, which msal returns as a dictionary."""


class Redirecting(requests.Session):
    def send(self, request, **kwargs):
        request.url = driver.redirected(request.url)
        return super().send(request, **kwargs)


def source(request: dict):
    selector = request.get("selector")
    identity = msal.UserAssignedManagedIdentity(**selector) if selector else msal.SystemAssignedManagedIdentity()
    client = msal.ManagedIdentityClient(identity, http_client=Redirecting())

    def get_token():
        response = client.acquire_token_for_client(resource=request["resource"])
        if "access_token" not in response:
            raise EndpointError(f"{response.get('error')}: {response.get('error_description')}")
        return response["access_token"], round(time.time()) + int(response["expires_in"])

    return get_token


driver.run(msal.__version__, source)
