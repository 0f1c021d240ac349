"""The code that all Python drivers share: it reads a request from the command line and prints a line of JSON."""

import json
import os
import sys
import time
import urllib.parse
from typing import Callable, Tuple

# The host of IMDS. No request may reach the real one.
IMDS = "169.254.169.254"


def redirected(url: str) -> str:
    """Replaces the host of a request to IMDS with $IMDS_URL, as iptables does in a pod."""
    parts = urllib.parse.urlsplit(url)
    if parts.hostname != IMDS:
        return url
    target = os.environ.get("IMDS_URL")
    if not target:
        raise RuntimeError(f"set IMDS_URL: no request may be sent to {IMDS}")
    return urllib.parse.urlunsplit(parts._replace(netloc=urllib.parse.urlsplit(target).netloc))


def run(version: str, make_source: Callable[[dict], Callable[[], Tuple[str, int]]]) -> None:
    """Runs the request. `make_source` takes the request and returns a function that gets one token and its expiry."""
    request = json.loads(sys.argv[1])
    response = {"version": version, "tokens": [], "expires_on": [], "ms": []}
    started = time.monotonic()
    try:
        get_token = make_source(request)
        for _ in range(request.get("times", 1)):
            started = time.monotonic()
            token, expires_on = get_token()
            response["tokens"].append(token)
            response["expires_on"].append(expires_on)
            response["ms"].append(milliseconds_since(started))
    except Exception as error:  # pylint: disable=broad-except
        response = {
            "version": version,
            "error": {"type": type(error).__name__, "message": str(error)},
            "ms": milliseconds_since(started),
        }
    print(json.dumps(response))


def milliseconds_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
