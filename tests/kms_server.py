"""A KMS server: moto's, in a process of its own, behind a guard that enforces what moto ignores.

    python -m tests.kms_server          prints its port; runs until its standard input ends

The guard knows the states of keys (a key that is disabled or about to be deleted is of no use), credentials, rights
(what a test denies), and the key that a ciphertext is said to be under. `POST /guard` with JSON changes it:
{"deny": [[access key id, action, key id or alias, or ""], …], "throttle": number of answers, "fail": number of them},
each in place of what was ruled before; {"reset": true} forgets all keys.
"""

import base64
import io
import json
import re
import sys
import threading
from typing import Any

from moto.kms.models import kms_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from tests.servers import CREDENTIALS, KMS_REGION

ACCOUNT = "123456789012"
USES = ("Encrypt", "Decrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "ReEncrypt")
NEED_NO_DELETION = (*USES, "EnableKey", "DisableKey", "ScheduleKeyDeletion", "UpdateAlias", "CreateAlias")


class Refusal(Exception):
    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        super().__init__(code)
        self.code, self.message, self.status = code, message, status


class Guard:
    def __init__(self) -> None:
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.rules: dict[str, Any] = {"deny": [], "throttle": 0, "fail": 0}
        self.lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if environ["PATH_INFO"] == "/guard":
            self.change(json.loads(body))
            return answer(start_response, "200 OK", {})
        try:
            with self.lock:
                self.judge(environ, json.loads(body))
        except Refusal as refusal:
            content = {"__type": refusal.code, "message": refusal.message}
            return answer(start_response, f"{refusal.status} Refused", content)
        environ["wsgi.input"] = io.BytesIO(body)
        return self.moto(environ, start_response)

    def change(self, rules: dict[str, Any]) -> None:
        self.rules = {"deny": [], "throttle": 0, "fail": 0, **rules}
        if "reset" in rules:
            kms_backends[ACCOUNT][KMS_REGION].reset()

    def judge(self, environ: dict[str, Any], request: dict[str, Any]) -> None:
        action = environ["HTTP_X_AMZ_TARGET"].removeprefix("TrentService.")
        found = re.search(r"Credential=([^/]+)/\d+/([^/]+)/kms/", environ.get("HTTP_AUTHORIZATION", ""))
        if found is None or found[1] != CREDENTIALS[0]:
            raise Refusal("UnrecognizedClientException", "The security token included in the request is invalid.")
        for name in ("throttle", "fail"):
            if self.rules[name]:
                self.rules[name] -= 1
                raise Refusal(*{"throttle": ("ThrottlingException",), "fail": ("KMSInternalException", "", 500)}[name])
        given = [
            request[name] for name in ("KeyId", "SourceKeyId", "DestinationKeyId", "TargetKeyId") if name in request
        ]
        for access_key, denied, key in self.rules["deny"]:
            if access_key == found[1] and denied == action and (not key or key in given):
                raise Refusal("AccessDeniedException", f"User is not authorized to perform: kms:{action}")
        for key in map(self.key, given):
            if key is None:
                continue  # moto says that it is missing
            if key.key_state == "Disabled" and action in USES:
                raise Refusal("DisabledException", f"{key.arn} is disabled.")
            if key.key_state == "PendingDeletion" and action in NEED_NO_DELETION:
                raise Refusal("KMSInvalidStateException", f"{key.arn} is pending deletion.")
        if action in ("Decrypt", "ReEncrypt"):
            self.judge_source(request.get("SourceKeyId") or request["KeyId"], request["CiphertextBlob"])

    def judge_source(self, name: str, ciphertext: str) -> None:
        source = self.key(name)
        if source is not None and base64.b64decode(ciphertext)[:36] != source.id.encode():
            raise Refusal("IncorrectKeyException")

    def key(self, name: str) -> Any:
        backend = kms_backends[ACCOUNT][KMS_REGION]
        if name.startswith("alias/"):
            name = backend.get_key_id_from_alias(name) or ""
        return backend.keys.get(name.rpartition("/")[2])


def answer(start_response: Any, status: str, content: dict[str, Any]) -> list[bytes]:
    start_response(status, [("Content-Type", "application/x-amz-json-1.1")])
    return [json.dumps(content).encode()]


def main() -> None:
    server = make_server("127.0.0.1", 0, Guard(), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
