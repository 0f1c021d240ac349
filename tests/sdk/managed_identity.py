"""Gets a token as an app with a managed identity does, and prints its claims."""

import base64
import json

from azure.identity import ManagedIdentityCredential

token = ManagedIdentityCredential().get_token("https://vault.azure.net/.default").token
claims = token.split(".")[1]
print(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)).decode())
