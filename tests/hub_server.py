# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
A stand-in for the Hugging Face Hub, for tests: the real `huggingface_hub` client talks to it over HTTP on loopback.

    with HubServer(tokens={"hf_ann": "ann"}) as hub:
        subprocess.run([...], env={**os.environ, **hub.environment(tmp_path, token="hf_ann")})
        print([commit.message for commit in hub.commits("ann/model")])

Repositories live in memory: commits, branches, tags, private ones, and large files by the LFS protocol. `fail` makes
requests go wrong: an error status so many times, a connection that closes half way, damaged bytes, or a change of what
lies on the server between two of them.
"""

import base64
import hashlib
import json
import math
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


LARGE = (".safetensors", ".bin", ".pt", ".png")  # by LFS, like the Hub
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class File:
    """A file of a commit."""

    data: bytes
    large: bool

    @property
    def oid(self) -> str:
        if self.large:
            return hashlib.sha256(self.data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()


@dataclass(frozen=True)
class Commit:
    """All files of a repository at one time."""

    oid: str
    message: str
    files: dict[str, File]


@dataclass
class Repository:
    """Its refs are branches and tags; each branch is a list of commits, the newest last."""

    private: bool = False
    branches: dict[str, list[Commit]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def find(self, revision: str) -> Commit | None:
        if self.branches.get(revision):
            return self.branches[revision][-1]
        oid = self.tags.get(revision, revision)
        return next((c for branch in self.branches.values() for c in branch if c.oid == oid), None)

    def commit(self, branch: str, message: str, files: dict[str, File]) -> Commit:
        history = self.branches.setdefault(branch, [])
        parent = history[-1].oid if history else ""
        content = json.dumps([parent, len(history), message, {path: files[path].oid for path in sorted(files)}])
        history.append(Commit(hashlib.sha1(content.encode()).hexdigest(), message, files))
        return history[-1]


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose 'METHOD /path' matches the pattern."""

    pattern: str
    status: int | None
    times: int
    damage: Callable[[bytes], bytes] | None
    echo: bool = False
    cut: bool = False
    then: Callable[[], object] | None = None

    @property
    def closes(self) -> bool:
        return not (self.status or self.damage or self.cut or self.then)


class Reply(Exception):
    """An answer other than the expected one."""

    def __init__(self, status: int, message: str, code: str | None = None, **fields: str) -> None:
        super().__init__(message)
        self.status, self.code, self.fields = status, code, fields


class HubServer:
    """
    The server, in a thread of this process, from `with` to the end of its block.

    Args:
        tokens (`dict[str, str]`): User names by token. A user may write to the repositories of that name alone.
    """

    def __init__(self, tokens: dict[str, str]) -> None:
        self.tokens = tokens
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.log: list[str] = []
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """Variables under which a new process talks to this server, with a cache of its own."""
        variables = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
        variables |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
        return {**variables, "HF_TOKEN": token or ""}

    def commits(self, repo_id: str, branch: str = "main") -> list[Commit]:
        """The commits of a branch, the oldest first."""
        return self.repositories[repo_id].branches[branch]

    def fail(
        self,
        pattern: str,
        status: int | None = None,
        times: int = 1,
        damage: Callable[[bytes], bytes] | None = None,
        echo: bool = False,
        cut: bool = False,
        then: Callable[[], object] | None = None,
    ) -> None:
        """
        Let requests go wrong: answered with `status`, and under `echo` with the header that holds the token; or their
        body through `damage`, or but half of it under `cut`; with none of these, the connection is closed in the
        middle of the request. Or something else happens on the server, `then`, before it answers. `times` requests,
        and then all is well again.
        """
        self.faults.append(Fault(pattern, status, times, damage, echo, cut, then))

    def fault(self, line: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, line):
                    fault.times -= 1
                    return fault
        return None


def check_card(content: str) -> list[str]:
    """What the Hub would refuse in the metadata of a model card."""
    found = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", content, flags=re.DOTALL)
    if not found:
        return ["no metadata"]
    try:
        data = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    if not isinstance(data, dict):
        return ["metadata must be a mapping"]
    errors = [f"{key} must be a string" for key in ("pipeline_tag", "library_name") if not _string(data.get(key, "x"))]
    if not all(map(_string, data.get("tags", []))):
        errors.append("tags must be strings")
    bases = data.get("base_model", [])
    for name in [*data.get("datasets", []), *([bases] if isinstance(bases, str) else bases)]:
        if not (_string(name) and HUB_ID.fullmatch(name)):
            errors.append(f"{name!r} is no id on the Hub")
    for model in data.get("model-index", []):
        if not _string(model.get("name")):
            errors.append("model-index.name must be a string")
        for result in model["results"]:
            if not _string(result["task"]["type"]):
                errors.append("task.type must be a string")
            errors += [f"dataset.{key} missing" for key in ("type", "name") if not _string(result["dataset"].get(key))]
            for metric in result["metrics"]:
                if not (_string(metric.get("type")) and math.isfinite(metric.get("value"))):
                    errors.append(f"metric {metric} needs a type and a number")
    return errors


def _string(value: object) -> bool:
    return isinstance(value, str) and bool(value)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _answer(self) -> None:
        url = urlsplit(self.path)
        line = f"{self.command} {unquote(url.path)}"
        with self.hub.lock:
            self.hub.log.append(line)
        fault = self.hub.fault(line)
        size = int(self.headers.get("Content-Length") or 0)
        if fault and fault.closes:
            self.rfile.read(size // 2)
            self.close_connection = True
            return self.connection.close()
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        self.body = self._chunks() if chunked else self.rfile.read(size)
        headers: dict[str, str] = {}
        try:
            if fault and fault.echo:
                said = self.headers.get("Authorization", "")
                headers = {"X-Error-Message": f"who is {said}?", "X-HF-Warning": f"{line}; beware, {said}"}
                raise Reply(fault.status or 403, "echo", errors=f"of {said}", **headers)
            if fault and fault.status:
                raise Reply(fault.status, "A fault that the test asked for")
            self.user = self._user()
            with self.hub.lock:
                if fault and fault.then:
                    fault.then()
                status, result = 200, self._route(url.path, parse_qs(url.query))
            if isinstance(result, tuple):
                result, headers = result
        except Reply as reply:
            status, result = reply.status, {"error": str(reply), **reply.fields}
            headers |= {} if headers else {"X-Error-Message": str(reply)}
            headers |= {"X-Error-Code": reply.code} if reply.code else {}
        except _Invalid as invalid:
            status, result = 400, {"errors": [{"message": error} for error in invalid.args], "warnings": []}
        data = result if isinstance(result, bytes) else json.dumps(result).encode()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and status == 200:
            headers["Content-Range"] = f"bytes {wanted[1]}-{len(data) - 1}/{len(data)}"
            status, data = 206, data[int(wanted[1]) :]
        data = fault.damage(data) if fault and fault.damage else data
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            cut = fault is not None and fault.cut
            self.wfile.write(data[: len(data) // 2] if cut else data)
            if cut:
                self.close_connection = True

    def _chunks(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise Reply(401, "Invalid credentials in Authorization header")
        return self.hub.tokens.get(token)

    def _route(self, path: str, query: dict[str, list[str]]) -> object:
        for method, pattern, name in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method.split("|"):
                return getattr(self, f"_{name}")(
                    query, *(unquote(part) for part in found.groups() if part is not None)
                )
        raise Reply(404, f"The stand-in has no {self.command} {path}")

    def _repository(self, repo_id: str, write: bool = False) -> Repository:
        repository, owner = self.hub.repositories.get(repo_id), repo_id.split("/")[0] == self.user
        if repository is None or (repository.private and not owner):
            raise Reply(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if write and not owner:
            raise Reply(403 if self.user else 401, f"You have no permission to write to {repo_id}")
        return repository

    def _commit_at(self, repo_id: str, revision: str) -> Commit:
        commit = self._repository(repo_id).find(revision)
        if commit is None:
            raise Reply(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def _whoami(self, query: object) -> object:
        if self.user is None:
            raise Reply(401, "Invalid username or password.")
        return {"type": "user", "name": self.user, "orgs": [], "auth": {"accessToken": {"role": "write"}}}

    def _validate(self, query: object) -> object:
        errors = check_card(json.loads(self.body)["content"])
        if errors:
            raise _Invalid(*errors)
        return {"errors": [], "warnings": []}

    def _create(self, query: object) -> object:
        wanted = json.loads(self.body)
        owner = wanted.get("organization") or self.user
        if self.user is None:
            raise Reply(401, "Invalid username or password.")
        if owner != self.user:
            raise Reply(403, f"You don't have the rights to create a model under the namespace {owner!r}")
        repo_id = f"{owner}/{wanted['name']}"
        url = {"url": f"{self.hub.endpoint}/{repo_id}", "name": repo_id}
        if repo_id in self.hub.repositories:
            raise Reply(409, "You already created this model repo", **url)
        repository = Repository(private=wanted.get("visibility") == "private")
        repository.commit("main", "initial commit", {".gitattributes": File(b"*.safetensors filter=lfs\n", False)})
        self.hub.repositories[repo_id] = repository
        return url

    def _auth(self, query: object, repo_id: str, write: str = "") -> object:
        self._repository(repo_id, write=bool(write))
        return {}

    def _info(self, query: object, repo_id: str, revision: str = "main") -> object:
        commit = self._commit_at(repo_id, revision)
        files = [{"rfilename": path} for path in sorted(commit.files)]
        private = self.hub.repositories[repo_id].private
        return {"id": repo_id, "sha": commit.oid, "private": private, "siblings": files, "tags": []}

    def _tree(
        self, query: dict[str, list[str]], repo_id: str, revision: str, folder: str = ""
    ) -> list[dict[str, object]]:
        prefix = f"{folder}/" if folder else ""
        inside = {
            path: file for path, file in self._commit_at(repo_id, revision).files.items() if path.startswith(prefix)
        }
        if folder and not inside:
            raise Reply(404, f"{folder} does not exist", "EntryNotFound")
        above = {str(parent) for path in inside for parent in PurePosixPath(path).parents}
        listed: list[dict[str, object]] = [
            {"type": "directory", "path": one, "oid": "0" * 40, "size": 0}
            for one in sorted(above)
            if one.startswith(prefix)
        ]
        listed = [one for one in listed if one["path"] != "."]
        listed += [
            {"type": "file", "path": path, "oid": file.oid, "size": len(file.data)}
            | ({"lfs": {"oid": file.oid, "size": len(file.data), "pointerSize": 1}} if file.large else {})
            for path, file in inside.items()
        ]
        recursive = query.get("recursive", ["false"])[0].lower() == "true"
        return listed if recursive else [one for one in listed if "/" not in str(one["path"])[len(prefix) :]]

    def _paths(self, query: object, repo_id: str, revision: str) -> object:
        """Of the files that are asked for."""
        wanted = parse_qs(self.body.decode()).get("paths", [])
        return [one for one in self._tree({"recursive": ["true"]}, repo_id, revision) if one["path"] in wanted]

    def _refs(self, query: object, repo_id: str) -> object:
        repository = self._repository(repo_id)
        branches = {name: commits[-1].oid for name, commits in repository.branches.items()}
        listed = {
            kind: [{"name": name, "ref": f"refs/{prefix}/{name}", "targetCommit": oid} for name, oid in refs.items()]
            for kind, prefix, refs in (("branches", "heads", branches), ("tags", "tags", repository.tags))
        }
        return {**listed, "converts": []}

    def _commits(self, query: object, repo_id: str, revision: str) -> object:
        self._commit_at(repo_id, revision)
        history = self.hub.repositories[repo_id].branches[revision]
        when = "2026-01-01T00:00:00.000Z"
        return [{"id": c.oid, "title": c.message, "message": "", "date": when, "authors": []} for c in history[::-1]]

    def _tag(self, query: object, repo_id: str, revision: str) -> object:
        tag = json.loads(self.body)["tag"]
        tags = self._repository(repo_id, write=True).tags
        if tag in tags:
            raise Reply(409, f"Tag {tag} exists")
        tags[tag] = self._commit_at(repo_id, revision).oid
        return {}

    def _branch(self, query: object, repo_id: str, branch: str) -> object:
        branches = self._repository(repo_id, write=True).branches
        if branch in branches:
            raise Reply(409, f"Branch {branch} exists")
        branches[branch] = list(branches["main"])
        return {}

    def _preupload(self, query: object, repo_id: str, revision: str) -> object:
        self._repository(repo_id, write=True)
        known = self._commit_at(repo_id, revision).files
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": known[file["path"]].oid if file["path"] in known else None,
            }
            for file in json.loads(self.body)["files"]
        ]
        return {"files": files}

    def _batch(self, query: object, repo_id: str) -> object:
        self._repository(repo_id, write=True)
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            upload = {"href": f"{self.hub.endpoint}/lfs/{wanted['oid']}", "header": {}}
            verify = {"href": f"{self.hub.endpoint}/{repo_id}.git/info/lfs/objects/verify", "header": {}}
            actions = {} if wanted["oid"] in self.hub.large else {"actions": {"upload": upload, "verify": verify}}
            objects.append({**wanted, "authenticated": True, **actions})
        return {"transfer": "basic", "objects": objects}

    def _put(self, query: object, oid: str) -> object:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Reply(400, "The SHA-256 of the content is another one")
        self.hub.large[oid] = self.body
        return {}

    def _verify(self, query: object, repo_id: str) -> object:
        wanted = json.loads(self.body)
        if len(self.hub.large.get(wanted["oid"], b"")) != wanted["size"]:
            raise Reply(404, "The object is not there")
        return {}

    def _commit(self, query: object, repo_id: str, revision: str) -> object:
        repository = self._repository(repo_id, write=True)
        parent = self._commit_at(repo_id, revision)
        header, *operations = (json.loads(line) for line in self.body.splitlines())
        if header["value"].get("parentCommit", parent.oid) != parent.oid:
            raise Reply(412, "A commit has happened since. Please refresh and try again.")
        files = dict(parent.files)
        for operation in operations:
            kind, value = operation["key"], operation["value"]
            if kind == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), False)
            elif kind == "lfsFile" and value["oid"] in self.hub.large:
                files[value["path"]] = File(self.hub.large[value["oid"]], True)
            elif kind == "deletedFile":
                del files[value["path"]]
            else:
                raise Reply(400, f"Cannot commit {operation}")
        oid = repository.commit(revision, header["value"]["summary"], files).oid
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.endpoint}/{repo_id}/commit/{oid}"}

    def _resolve(self, query: object, repo_id: str, revision: str, path: str) -> object:
        commit = self._commit_at(repo_id, revision)
        headers = {"X-Repo-Commit": commit.oid}
        if path not in commit.files:
            raise Reply(404, f"{path} does not exist", "EntryNotFound")
        file = commit.files[path]
        headers |= {"ETag": f'"{file.oid}"', "X-Linked-Size": str(len(file.data))}
        return file.data, headers | ({"X-Linked-Etag": f'"{file.oid}"'} if file.large else {})


class _Invalid(Exception):
    """Errors of a card."""


REPO = r"([\w.-]+/[\w.-]+)"
API = f"/api/(?:models|datasets)/{REPO}"
ROUTES = [
    ("GET", "/api/whoami-v2", "whoami"),
    ("POST", "/api/validate-yaml", "validate"),
    ("POST", "/api/repos/create", "create"),
    ("GET", f"{API}/auth-check(/write)?", "auth"),
    ("GET", f"{API}", "info"),
    ("GET", f"{API}/revision/([^/]+)", "info"),
    ("GET", f"{API}/tree/([^/]+)", "tree"),
    ("GET", f"{API}/tree/([^/]+)/(.+)", "tree"),
    ("GET", f"{API}/refs", "refs"),
    ("GET", f"{API}/commits/([^/]+)", "commits"),
    ("POST", f"{API}/tag/([^/]+)", "tag"),
    ("POST", f"{API}/branch/([^/]+)", "branch"),
    ("POST", f"{API}/preupload/([^/]+)", "preupload"),
    ("POST", f"{API}/commit/([^/]+)", "commit"),
    ("POST", f"/{REPO}\\.git/info/lfs/objects/batch", "batch"),
    ("POST", f"/{REPO}\\.git/info/lfs/objects/verify", "verify"),
    ("PUT", "/lfs/([0-9a-f]{64})", "put"),
    ("POST", f"{API}/paths-info/([^/]+)", "paths"),
    ("GET|HEAD", f"/(?:datasets/)?{REPO}/resolve/([^/]+)/(.+)", "resolve"),
]
