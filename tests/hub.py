"""A stand-in for the Hub's HTTP interface: repositories in memory that huggingface_hub pushes to and loads from."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40


class Hub(ThreadingHTTPServer):
    """`repositories`: id -> path -> content. `commits`: what each commit added, in order."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.commits: list[set[str]] = []
        self.objects: dict[str, bytes] = {}
        self.refused: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path, self._body()
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.server.repositories.setdefault(name, {})
            self._json({"url": f"{self.server.url}/{name}", "id": name})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = ["lfs" if file["path"].endswith((".safetensors", ".png")) else "regular" for file in files]
            self._json(
                {
                    "files": [
                        {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
                        for file, mode in zip(files, modes, strict=True)
                    ]
                }
            )
        elif path.endswith("/info/lfs/objects/batch"):
            upload = lambda oid: {"upload": {"href": f"{self.server.url}/objects/{oid}"}}  # noqa: E731
            self._json(
                {
                    "transfer": "basic",
                    "objects": [{**one, "actions": upload(one["oid"])} for one in json.loads(body)["objects"]],
                }
            )
        elif "/commit/" in path:
            name = path.removeprefix("/api/models/").partition("/commit/")[0]
            repository = self.server.repositories[name]
            added = set()
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    repository[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    repository[value["path"]] = self.server.objects[value["oid"]]
                added.add(value.get("path"))
            self.server.commits.append(added - {None})
            self._json({"commitUrl": f"{self.server.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self._refuse()

    def do_PUT(self) -> None:
        content = self._body()
        oid = urlsplit(self.path).path.removeprefix("/objects/")
        if hashlib.sha256(content).hexdigest() != oid:
            self.send_error(400)
            return
        self.server.objects[oid] = content
        self._answer(b"")

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        name, _, rest = path.removeprefix("/api/models").strip("/").partition("/resolve/")
        files = self.server.repositories.get(name)
        if "/resolve/" in path and files is not None and rest.partition("/")[2] in files:
            content = files[rest.partition("/")[2]]
            self._answer(content, ETag=f'"{hashlib.sha256(content).hexdigest()}"')
        elif "/tree/" in path:
            self._refuse("EntryNotFound")  # folders within a repository, of which FAIR's have none
        elif path.startswith("/api/models/") and name in self.server.repositories:
            siblings = [{"rfilename": file} for file in self.server.repositories[name]]
            self._json({"id": name, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False})
        else:
            self._refuse("EntryNotFound" if files is not None else "RepoNotFound")

    do_HEAD = do_GET

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, value: object) -> None:
        self._answer(json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _answer(self, content: bytes, **headers: str) -> None:
        self.send_response(200)
        for key, value in {**headers, "X-Repo-Commit": COMMIT, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, code: str = "") -> None:
        self.server.refused.append(f"{self.command} {self.path}")
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A stand-in that listens until the end of the block."""
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
