"""A Hugging Face Hub of the tests' own, on loopback: the endpoints that huggingface_hub calls.

Large files are redirected to a second server, as the Hub redirects to its storage.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

LARGE = (".safetensors", ".bin", ".pth", ".pt", ".zip")
"""Suffixes of files that go to the storage (Git LFS)."""
TOKEN = "hf_of_the_owner"
OTHER_TOKEN = "hf_of_somebody"


@dataclass
class Repo:
    """A model: its commits (file -> content), and its branches and tags."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files, ref="main", message="a commit"):
        """Add a commit with these files, replacing the former ones; return its hash."""
        facts = [(name, hashlib.sha1(content).hexdigest()) for name, content in files.items()]
        commit = hashlib.sha1(repr((sorted(facts), len(self.commits))).encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.refs[ref] = commit
        self.messages.append(message)
        return commit

    @property
    def files(self):
        return self.commits[self.refs["main"]]


@dataclass
class Fault:
    """A fault of the server: its first `times` answers to requests that match `pattern`.

    Attributes:
        pattern: regular expression for ``METHOD /path``.
        status: status to answer with; 0 to send a part of the file and cut the connection.
    """

    pattern: str
    status: int
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)


class Hub:
    """The two servers.

    Attributes:
        requests: method, path, and whether there was a token, of every request.
        before: action on a model (``preupload``) -> function that is called once, before it.
    """

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, bool]] = []
        self.stored: dict[str, bytes] = {}
        self.connections: set = set()
        self.before: dict = {}
        self.server = self._start(_Api, "127.0.0.1")
        self.storage = self._start(_Storage, "127.0.0.2")  # another host, which gets no token

    def _start(self, handler, host):
        server = ThreadingHTTPServer((host, 0), type("Handler", (handler,), {"hub": self}))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        server.url = f"http://{host}:{server.server_port}"
        return server

    @property
    def url(self):
        return self.server.url

    def stop(self):
        for server in (self.server, self.storage):
            server.shutdown()
            server.server_close()
        for connection in self.connections:  # those that are kept open for further requests
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def environment(self, home):
        """Return the variables with which another process asks this Hub, as the owner of `home`."""
        variables = {"HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN, "HF_HOME": str(home)}
        return {**variables, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}

    def add(self, name, files, **options):
        """Add a model with one commit; return its Repo."""
        repo = self.repos[name] = Repo(**options)
        repo.commit(files)
        return repo

    def paths(self, method="GET"):
        return [path for used, path, _ in self.requests if used == method]

    def fetched(self):
        """Return the names of the files whose content was asked for."""
        resolved = (re.search(r"/resolve/[0-9a-f]+/(.*)", path) for path in self.paths())
        stored = (re.search(r"/lfs/[0-9a-f]+/(.*)", path) for path in self.paths())
        return {found[1] for found in (*resolved, *stored) if found}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.hub.connections.add(self.connection)

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = b""
            while size := int(self.rfile.readline(), 16):
                self.body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.hub.requests.append((self.command, unquote(self.path), bool(self.token)))
        for fault in self.hub.faults:
            if fault.times and re.search(fault.pattern, f"{self.command} {self.path}"):
                fault.times -= 1
                self.cut = fault.status == 0
                if not self.cut:
                    self.send(fault.status, {}, headers=fault.headers)
                    return
                break
        else:
            self.cut = False
        with contextlib.suppress(ConnectionError):
            self.handle_request(unquote(urlsplit(self.path).path))

    def send(self, status, content, headers=None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), **(headers or {})}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.cut:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(body)

    def refuse(self, status, code=None, message=None):
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        given = {name: value for name, value in headers.items() if value}
        self.send(status, {"error": message or code}, given)

    def send_part(self, content, headers=None):
        """Send a file, or the range of it that is asked for."""
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked:
            first = int(asked[1])
            span = {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
            self.send(206, content[first:], {**(headers or {}), **span})
        else:
            self.send(200, content, headers)


class _Storage(_Handler):
    """The storage of large files; it must never see the token."""

    def handle_request(self, path):
        _, _, sha, *_ = path.split("/")
        if self.command == "PUT":
            assert hashlib.sha256(self.body).hexdigest() == sha
            self.hub.stored[sha] = self.body
            self.send(200, b"")
        else:
            self.send_part(self.hub.stored[sha])


class _Api(_Handler):
    def handle_request(self, path):
        if self.token and self.token not in (TOKEN, OTHER_TOKEN):
            self.refuse(401, message="Invalid credentials in Authorization header")
        elif path == "/api/repos/create":
            self._create(json.loads(self.body))
        elif path == "/api/validate-yaml":
            self._validate(json.loads(self.body)["content"])
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(\w+)/([^/]+))?/?(.*)", path):
            self._model(*found.groups())
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*found.groups())
        elif found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._batch(json.loads(self.body)["objects"])
        else:
            self.send(404, {})

    def _repo(self, name):
        """Return a model that the user may see; otherwise refuse, as the Hub does."""
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and self.token != TOKEN):
            self.refuse(404 if self.token else 401, "RepoNotFound", "Repository not found")
            return None
        return repo

    def _commit_of(self, repo, revision):
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return commit

    def _model(self, name, action, revision, _):
        repo = self._repo(name)
        if repo is None:
            return
        commit = self._commit_of(repo, revision or "main")
        if commit is None:
            return
        files = repo.commits[commit]
        if action in (None, "revision"):
            card = re.match(r"---\n(.*?)\n---", files.get("README.md", b"").decode(), re.DOTALL)
            self.send(
                200,
                {
                    **{"id": name, "modelId": name, "sha": commit, "tags": []},
                    **{"private": repo.private, "gated": "manual" if repo.gated else False},
                    "siblings": [{"rfilename": file} for file in sorted(files)],
                    "cardData": yaml.safe_load(card[1]) if card else None,
                },
            )
        elif action == "tree":
            self.send(200, [self._entry(file, content) for file, content in files.items()])
        elif self.token != TOKEN:
            self.refuse(403, message="You don't have the rights to write here")
        elif action == "preupload":
            self.hub.before.pop(action, lambda: None)()
            asked = json.loads(self.body)["files"]
            self.send(200, {"files": [self._preuploaded(files, file["path"]) for file in asked]})
        elif action == "commit":
            self._commit(name, repo, [json.loads(line) for line in self.body.splitlines()])

    @staticmethod
    def _oid(content):
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def _entry(self, file, content):
        entry = {"type": "file", "path": file, "size": len(content), "oid": self._oid(content)}
        if file.endswith(LARGE):
            sha = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 134}
        return entry

    def _preuploaded(self, files, path):
        mode = "lfs" if path.endswith(LARGE) else "regular"
        oid = None
        if path in files:
            content = files[path]
            oid = hashlib.sha256(content).hexdigest() if mode == "lfs" else self._oid(content)
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def _resolve(self, name, revision, file):
        repo = self._repo(name)
        if repo is None:
            return
        if repo.gated and self.token != TOKEN:
            self.refuse(403 if self.token else 401, "GatedRepo", f"Access to {name} is restricted")
            return
        commit = self._commit_of(repo, revision)
        if commit is None:
            return
        if file not in repo.commits[commit]:
            self.refuse(404, "EntryNotFound", "Entry not found")
            return
        content = repo.commits[commit][file]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{self._oid(content)}"'}
        if file.endswith(LARGE):
            sha = hashlib.sha256(content).hexdigest()
            self.hub.stored[sha] = content
            headers |= {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(content))}
            headers["Location"] = f"{self.hub.storage.url}/lfs/{sha}/{file}"
            self.send(302, b"", headers)
        else:
            self.send_part(content, headers)

    def _create(self, asked):
        name = f"{asked['organization']}/{asked['name']}"
        if self.token != TOKEN:
            self.refuse(403, message="You don't have the rights to create a model")
        elif name in self.hub.repos:
            self.send(409, {"error": "exists", "url": f"{self.hub.url}/{name}"})
        else:
            private = bool(asked.get("private")) or asked.get("visibility") == "private"
            self.hub.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=private)
            self.send(200, {"url": f"{self.hub.url}/{name}"})

    def _validate(self, content):
        data = yaml.safe_load(content.split("---")[1])
        wrong = [{"message": "license must be a text"}] if "license" in data and not isinstance(
            data["license"], str
        ) else []  # fmt: skip
        self.send(400 if wrong else 200, {"errors": wrong, "warnings": []})

    def _batch(self, objects):
        if self.token != TOKEN:
            self.refuse(403, message="You don't have the rights to write here")
            return
        answers = []
        for asked in objects:
            sha, size = asked["oid"], asked["size"]
            answer = {"oid": sha, "size": size}
            if sha not in self.hub.stored:
                href = f"{self.hub.storage.url}/lfs/{sha}/upload"
                answer["actions"] = {"upload": {"href": href, "header": {}}}
            answers.append(answer)
        self.send(200, {"transfer": "basic", "objects": answers})

    def _commit(self, name, repo, lines):
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit", repo.refs["main"]) != repo.refs["main"]:
            self.refuse(412, message="A commit has happened since. Please refresh and try again.")
            return
        files = dict(repo.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
        commit = repo.commit(files, message=header["summary"])
        url = f"{self.hub.url}/{name}/commit/{commit}"
        self.send(200, {"success": True, "commitOid": commit, "commitUrl": url})
