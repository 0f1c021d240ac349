"""Gets tokens as an app does that has msal alone: see README.md in the folder above."""

import time

import msal
import requests

import driver


class Refused(Exception):
    """msal returns an error of the endpoint as a dictionary."""


class Redirecting(requests.Session):
    def send(self, request, **kwargs):
        request.url = driver.redirected(request.url)
        return super().send(request, **kwargs)


def source(request: dict):
    selector = request.get("selector")
    identity = msal.UserAssignedManagedIdentity(**selector) if selector else msal.SystemAssignedManagedIdentity()
    client = msal.ManagedIdentityClient(identity, http_client=Redirecting())

    def get_token():
        answer = client.acquire_token_for_client(resource=request["resource"])
        if "access_token" not in answer:
            raise Refused(f"{answer.get('error')}: {answer.get('error_description')}")
        return answer["access_token"], round(time.time()) + int(answer["expires_in"])

    return get_token


driver.run(msal.__version__, source)
