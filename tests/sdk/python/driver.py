"""What both drivers for Python share: one request on the command line, one line of JSON as the answer."""

import json
import os
import sys
import time
import urllib.parse
from typing import Callable, Tuple

# What every app calls. Nothing here may reach the real one.
IMDS = "169.254.169.254"


def redirected(url: str) -> str:
    """Where a request to IMDS goes here: to $IMDS_URL, as iptables does it in a pod."""
    parts = urllib.parse.urlsplit(url)
    if parts.hostname != IMDS:
        return url
    here = os.environ.get("IMDS_URL")
    if not here:
        raise RuntimeError(f"IMDS_URL is not set: nothing goes to {IMDS}")
    return urllib.parse.urlunsplit(parts._replace(netloc=urllib.parse.urlsplit(here).netloc))


def run(version: str, make_source: Callable[[dict], Callable[[], Tuple[str, int]]]) -> None:
    """Answers the request. `make_source` makes of it what gets one token and when that expires."""
    request = json.loads(sys.argv[1])
    answer = {"version": version, "tokens": [], "expires_on": [], "ms": []}
    started = time.monotonic()
    try:
        get_token = make_source(request)
        for _ in range(request.get("times", 1)):
            started = time.monotonic()
            token, expires_on = get_token()
            answer["tokens"].append(token)
            answer["expires_on"].append(expires_on)
            answer["ms"].append(milliseconds_since(started))
    except Exception as error:  # pylint: disable=broad-except
        answer = {
            "version": version,
            "error": {"type": type(error).__name__, "message": str(error)},
            "ms": milliseconds_since(started),
        }
    print(json.dumps(answer))


def milliseconds_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
