"""Gets tokens in the same way as an app with msrestazure: see README.md in the parent folder."""

import datetime

import msrestazure
import requests
from msrestazure.azure_active_directory import MSIAuthentication

import driver

# msrestazure does not support a custom transport, so this replaces the transport of all sessions.
send = requests.Session.send


def redirecting(session, request, **kwargs):
    request.url = driver.redirected(request.url)
    return send(session, request, **kwargs)


requests.Session.send = redirecting


def seconds(expires_on: str) -> int:
    """Converts an expiry to Unix seconds: from a number, or from the date format of App Service 2017-09-01."""
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
            # The constructor requests the first token.
            credentials.append(MSIAuthentication(resource=request["resource"], **selector))
        token = credentials[0].token
        return token["access_token"], seconds(token["expires_on"])

    return get_token


driver.run(msrestazure.__version__, source)
