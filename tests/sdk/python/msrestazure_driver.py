"""Gets tokens as an app does that has msrestazure: see README.md in the folder above."""

import datetime

import msrestazure
import requests
from msrestazure.azure_active_directory import MSIAuthentication

import driver

# It makes its requests by itself and takes no transport.
send = requests.Session.send


def redirecting(session, request, **kwargs):
    request.url = driver.redirected(request.url)
    return send(session, request, **kwargs)


requests.Session.send = redirecting


def seconds(expires_on: str) -> int:
    """When a token ends: in seconds, or as the first version of App Service writes it."""
    if expires_on.isdigit():
        return int(expires_on)
    return round(datetime.datetime.strptime(expires_on, "%m/%d/%Y %H:%M:%S %z").timestamp())


def source(request: dict):
    selector = request.get("selector") or {}
    selector = {"msi_res_id" if kind == "resource_id" else kind: value for kind, value in selector.items()}
    credentials = []

    def get_token():
        if credentials:
            credentials[0].set_token()
        else:
            # This asks for the first token.
            credentials.append(MSIAuthentication(resource=request["resource"], **selector))
        token = credentials[0].token
        return token["access_token"], seconds(token["expires_on"])

    return get_token


driver.run(msrestazure.__version__, source)
