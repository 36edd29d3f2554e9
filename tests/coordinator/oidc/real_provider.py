"""An OpenID provider as a process: idpyoidc's server, whose authors certify it, behind Python's own HTTPS server.

``python -m tests.coordinator.oidc.real_provider PORT CERTIFICATE KEY CLIENT_ID CLIENT_SECRET REDIRECT_URI LOGOUT_URI``.
Whoever is named at ``/as/<user>`` is the one who signs in next; everything else is the library's.
"""

from __future__ import annotations

import ssl
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptojwt.key_jar import init_key_jar
from idpyoidc.message.oauth2 import ResponseMessage
from idpyoidc.server import Server
from idpyoidc.server.configure import OPConfiguration

USERS = {
    "ada": {"name": "Ada Lovelace", "email": "ada@example.com", "groups": ["certctl-admins", "staff"]},
    "eve": {"name": "Eve", "email": "eve@example.com", "groups": ["staff"]},
}
KEYS = [{"type": "RSA", "use": ["sig"]}, {"type": "EC", "crv": "P-256", "use": ["sig"]}]
CODE_KEYS = [{"type": "OCT", "use": ["enc"], "kid": "password"}, {"type": "OCT", "use": ["enc"], "kid": "salt"}]


def configuration(issuer: str) -> dict[str, Any]:
    """Return what the library calls a configuration: endpoints, how codes and tokens are made, who there is."""
    oidc = "idpyoidc.server.oidc"
    secret = {"client_authn_method": ["client_secret_basic", "client_secret_post"]}
    return {
        "issuer": issuer,
        "httpc_params": {"verify": False},
        "key_conf": {"key_defs": KEYS, "uri_path": "jwks"},
        "token_handler_args": {
            "code": {"lifetime": 60, "kwargs": {"crypt_conf": {"kwargs": {"keys": {"key_defs": CODE_KEYS}}}}},
            "token": {"class": "idpyoidc.server.token.jwt_token.JWTToken", "kwargs": {"lifetime": 600}},
            "id_token": {"class": "idpyoidc.server.token.id_token.IDToken",
                         "kwargs": {"base_claims": {"email": None, "name": None}}},
            "key_conf": {"key_defs": [{"type": "oct", "bytes": 24, "use": ["enc"], "kid": "code"}]},
        },
        "endpoint": {
            "provider_config": {"path": ".well-known/openid-configuration",
                                "class": f"{oidc}.provider_config.ProviderConfiguration",
                                "kwargs": {"client_authn_method": None}},
            "authorization": {"path": "authorization", "class": f"{oidc}.authorization.Authorization",
                              "kwargs": {"client_authn_method": None, "response_types_supported": ["code"]}},
            "token": {"path": "token", "class": f"{oidc}.token.Token", "kwargs": secret},
            "userinfo": {"path": "userinfo", "class": f"{oidc}.userinfo.UserInfo", "kwargs": {}},
            "session": {"path": "session", "class": f"{oidc}.session.Session",
                        "kwargs": {"post_logout_uri_path": "post_logout", "signing_alg": "ES256",
                                   "logout_verify_url": f"{issuer}/verify_logout", "client_authn_method": None}},
        },
        "userinfo": {"class": "idpyoidc.server.user_info.UserInfo", "kwargs": {"db": USERS}},
        "authentication": {"anon": {"acr": "http://www.swamid.se/policy/assurance/al1",
                                    "class": "idpyoidc.server.user_authn.user.NoAuthn", "kwargs": {"user": "ada"}}},
        "scopes_to_claims": {"openid": ["sub"], "profile": ["name"], "email": ["email"], "groups": ["groups"]},
        "add_on": {"pkce": {"function": "idpyoidc.server.oauth2.add_on.pkce.add_support",
                            "kwargs": {"essential": True, "code_challenge_method": "S256 S384 S512"}}},
    }  # fmt: skip


class Provider(HTTPServer):
    """The server; one request after the other, as one browser makes them."""

    op: Server
    code_of: dict[str, str]


class Handler(BaseHTTPRequestHandler):
    """Hands requests to the library's endpoints."""

    server: Provider

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, urlsplit(self.path).query
        if path.startswith("/as/"):
            authentication = self.server.op.context.authn_broker["anon"]
            authentication["method"].user = path.removeprefix("/as/")
            return self._send(200, b"ok")
        if path == "/jwks":
            return self._send(200, self.server.op.keyjar.export_jwks_as_json("").encode(), "application/json")
        return self._endpoint({name: values[0] for name, values in parse_qs(query).items()})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        return self._endpoint({name: values[0] for name, values in parse_qs(body).items()})

    def _endpoint(self, asked: dict[str, str]) -> None:
        endpoint = next(
            (e for e in self.server.op.endpoint.values() if urlsplit(self.path).path == f"/{e.endpoint_path}"), None
        )
        if endpoint is None:
            return self._send(404, b"not here")
        http_info = {"headers": {name.lower(): value for name, value in self.headers.items()},
                     "method": self.command, "url": f"{self.server.op.issuer}{self.path}", "cookie": []}  # fmt: skip
        request = endpoint.parse_request(asked, http_info=http_info)
        if isinstance(request, ResponseMessage) and "error" in request:
            return self._send(400, request.to_json().encode(), "application/json")
        answer = endpoint.process_request(request, http_info=http_info)
        if isinstance(answer, ResponseMessage) and "error" in answer:
            return self._send(400, answer.to_json().encode(), "application/json")
        if "redirect_location" in answer:
            return self._send(302, b"", location=answer["redirect_location"])
        told = endpoint.do_response(request=request, **answer)
        if (told.get("response_placement") or endpoint.response_placement) == "url":
            return self._send(302, b"", location=told["response"])
        return self._send(told.get("response_code", 200), told["response"].encode(), "application/json")

    def _send(self, status: int, body: bytes, content_type: str = "text/plain", location: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    port, certificate, key, client_id, client_secret, redirect_uri, logout_uri = sys.argv[1:]
    issuer = f"https://localhost:{port}"
    keyjar = init_key_jar(key_defs=KEYS)
    keyjar.import_jwks(keyjar.export_jwks(private=True), issuer)
    op = Server(OPConfiguration(configuration(issuer), base_path=tempfile.gettempdir()), keyjar=keyjar)
    op.context.cdb[client_id] = {
        "client_secret": client_secret,
        "redirect_uris": [(redirect_uri, {})],
        "post_logout_redirect_uri": (logout_uri, {}),
        "token_endpoint_auth_method": "client_secret_basic",
        "response_types_supported": ["code"],
        "allowed_scopes": ["openid", "profile", "email", "groups"],
    }
    op.context.keyjar.add_symmetric(client_id, client_secret)
    server = Provider(("127.0.0.1", int(port)), Handler)
    server.op = op
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(certificate), Path(key))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
