"""The part of the Hub that takes uploads, on this machine."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubApi:
    """A Hub of one repository.

    Attributes:
        url: the address, without a slash at the end.
        repository: what it says of the repository: "private", "files"; None if it has none.
        refusals: path → (status, the Hub's error code or message), instead of the answer.
        requests: (method, path, body) of every request, in their order; JSON is read.
        tokens: what the requests came with.
        committed: path → bytes of the last commit.
        commit: its header.
    """

    def __init__(self, repo_id: str) -> None:
        self.repo_id = repo_id
        self.repository: dict[str, Any] | None = None
        self.refusals: dict[str, tuple[int, str]] = {}
        self.requests: list[tuple[str, str, Any]] = []
        self.tokens: set[str | None] = set()
        self.committed: dict[str, bytes] = {}
        self.commit: dict[str, Any] = {}
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator["HubApi"]:
        """Answer in a thread until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def posted(self, path: str) -> list[Any]:
        """The bodies of what was sent to a path."""
        return [body for method, asked, body in self.requests if (method, asked) == ("POST", path)]

    def answer(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any], str]:
        """Status, JSON and error code."""
        model = f"/api/models/{self.repo_id}"
        if path in self.refusals:
            status, said = self.refusals[path]
            return status, {"error": said, "errors": [{"message": said}]}, said
        if (method, path) == ("GET", model):
            return self._describe()
        if path == "/api/repos/create":
            self.repository = {"private": body.get("visibility") == "private", "files": []}
            return 200, {"url": f"{self.url}/{self.repo_id}"}, ""
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, ""
        if self.repository is not None and path == f"{model}/preupload/main":
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            return 200, {"files": [{"path": file["path"], **modes} for file in body["files"]]}, ""
        if self.repository is not None and path == f"{model}/commit/main":
            return self._commit(body)
        return 404, {"error": "not found"}, "RepoNotFound"

    def _describe(self) -> tuple[int, dict[str, Any], str]:
        if self.repository is None:
            return 404, {"error": "Repository not found"}, "RepoNotFound"
        files = [{"rfilename": name} for name in self.repository["files"]]
        private = self.repository["private"]
        values = {"id": self.repo_id, "sha": COMMIT, "private": private, "siblings": files}
        return 200, values, ""

    def _commit(self, lines: list[dict[str, Any]]) -> tuple[int, dict[str, Any], str]:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.commit = value
            else:
                assert line["key"] == "file"
                assert value["encoding"] == "base64"
                self.committed[value["path"]] = base64.b64decode(value["content"])
        url = f"{self.url}/{self.repo_id}/commit/{COMMIT}"
        return 200, {"commitUrl": url, "commitOid": COMMIT}, ""


class _Handler(BaseHTTPRequestHandler):
    owner: HubApi

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        lines = [json.loads(line) for line in text.splitlines()]
        many = "ndjson" in self.headers.get("Content-Type", "")
        self._answer(lines if many else lines[0])

    def _answer(self, body: Any) -> None:
        path = self.path.partition("?")[0]
        if path == "/api/agent-harnesses":  # what the library asks first, once in a process
            self.send_error(404)
            return
        self.owner.requests.append((self.command, path, body))
        self.owner.tokens.add(self.headers.get("Authorization"))
        status, values, code = self.owner.answer(self.command, path, body)
        content = json.dumps(values).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
