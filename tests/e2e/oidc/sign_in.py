"""The Python SDK as a client that signs in by itself and calls `echo`: see sign_in.mjs.

    sign_in.py URL OPTIONS
"""

import asyncio
import json
import sys
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

url, options = sys.argv[1], json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}")
redirect_url = f"http://127.0.0.1:{options.get('port', 8765)}/callback"
metadata = OAuthClientMetadata(
    client_name="sign_in",
    redirect_uris=[redirect_url],
    grant_types=["authorization_code", "refresh_token"],
    response_types=["code"],
    token_endpoint_auth_method="none",
)


class Storage:
    tokens = OAuthToken(access_token=options["kept"]) if "kept" in options else None
    client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        if "client_id" in options and self.client is None:
            known = {"client_id": options["client_id"], "redirect_uris": [redirect_url]}
            self.client = OAuthClientInformationFull(**known, token_endpoint_auth_method="none")
        return self.client

    async def set_client_info(self, client):
        self.client = client


class Browser:
    """Follows the redirects of a sign-in, with cookies, until they lead back to the client."""

    callback = None

    async def open(self, at):
        async with httpx2.AsyncClient(trust_env=False) as http:
            while not at.startswith(redirect_url):
                response = await http.get(at)
                if "location" not in response.headers:
                    raise RuntimeError(f"no way on: {response.status_code} {response.text}")
                at = urljoin(at, response.headers["location"])
        self.callback = {name: values[0] for name, values in parse_qs(urlsplit(at).query).items()}

    async def result(self):
        if "code" not in self.callback:
            raise RuntimeError(f"the sign-in failed: {self.callback}")
        return AuthorizationCodeResult(**{name: self.callback.get(name) for name in ("code", "state", "iss")})


def innermost(failure):
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure


async def main():
    browser = Browser()
    sign_in = OAuthClientProvider(url, metadata, Storage(), browser.open, browser.result)
    headers = {"Authorization": f"Bearer {options['token']}"} if "token" in options else {}
    auth = None if "token" in options else sign_in
    try:
        async with httpx2.AsyncClient(headers=headers, auth=auth, timeout=60, trust_env=False) as http:
            async with Client(streamable_http_client(url, http_client=http)) as client:
                result = await client.call_tool(options.get("tool", "echo"), {"text": "signed in"})
                return {"text": result.content[0].text}
    except BaseException as failure:
        failure = innermost(failure)
        return {"error": f"{type(failure).__name__}: {failure}"}


print(json.dumps(asyncio.run(main())))
