"""A stand-in for the HTTP API of the Hugging Face hub, as far as it is used.

Models with branches and commits, in memory; large files go by Git LFS (set
HF_HUB_DISABLE_XET=1). What a repository called ``broken`` is sent is cut off.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_right"


class StandIn(BaseHTTPRequestHandler):
    """The routes; what is stored is the class's, one for each server."""

    protocol_version = "HTTP/1.1"
    repos = {}  # id -> branch or commit -> {path: bytes}
    heads = {}  # (id, branch) -> commit
    objects = {}  # SHA-256 -> bytes, of large files
    commits = []  # what each commit did

    ROUTES = (
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("POST", r"/api/models/([\w-]+/[\w-]+)/branch/(\w+)", "branch"),
        ("POST", r"/api/models/([\w-]+/[\w-]+)/preupload/(\w+)", "preupload"),
        ("POST", r"/api/models/([\w-]+/[\w-]+)/commit/(\w+)", "commit"),
        ("POST", r"/([\w-]+/[\w-]+)\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/objects/(\w+)", "store"),
        ("GET", r"/api/models/([\w-]+/[\w-]+)(?:/revision/(\w+))?", "info"),
        ("GET", r"/api/models/([\w-]+/[\w-]+)/tree/(\w+)", "tree"),
        ("GET|HEAD", r"/([\w-]+/[\w-]+)/resolve/(\w+)/(.+)", "resolve"),
    )

    def handle_any(self):
        """Call the route that fits."""
        size = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(size)
        path = self.path.partition("?")[0]
        for method, pattern, name in self.ROUTES:
            found = re.fullmatch(pattern, path)
            if self.command in method and found:
                token = self.headers.get("Authorization")
                if token != f"Bearer {TOKEN}" and name not in ("store",):
                    return self.fail(401, "Invalid username or password.")
                return getattr(self, name)(*found.groups())
        return self.fail(404, f"no route {self.command} {path}")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def log_message(self, *_):
        """Say nothing."""

    def reply(self, body, status=200, **headers):
        """A JSON object, or the bytes of a file."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fail(self, status, message, code=""):
        self.reply({"error": message}, status, X_Error_Code=code)

    def files(self, repo, revision):
        """Commit and files of a revision; None, with a reply, if none."""
        if repo not in self.repos:
            return self.fail(404, "no such repository", "RepoNotFound")
        commit = self.heads.get((repo, revision or "main"), revision)
        if commit not in self.repos[repo]:
            return self.fail(404, "no such revision", "RevisionNotFound")
        return commit, self.repos[repo][commit]

    def write(self, repo, branch, files):
        """A commit."""
        made = json.dumps([repo, branch, len(self.repos[repo])])
        commit = hashlib.sha1(made.encode()).hexdigest()
        self.repos[repo][commit] = files
        self.heads[repo, branch] = commit
        return commit

    def create(self):
        asked = json.loads(self.body)
        repo = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] == "stranger":
            return self.fail(403, "You may not write there.")
        is_new = repo not in self.repos
        if is_new:
            self.repos[repo] = {}
            self.write(repo, "main", {".gitattributes": b"*.ckpt filter=lfs"})
        url = f"http://{self.headers['Host']}/{repo}"
        self.reply({"url": url}, 200 if is_new else 409)

    def validate(self):
        if "license: nonsense" in json.loads(self.body)["content"]:
            message = "license is not one of the hub"
            return self.reply({"errors": [{"message": message}]}, 400)
        self.reply({"errors": [], "warnings": []})

    def branch(self, repo, name):
        self.heads.setdefault((repo, name), self.heads[repo, "main"])
        self.reply({})

    def preupload(self, repo, branch):
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if "ckpt" in file["path"] else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body)["files"]
        ]
        self.reply({"files": modes})

    def batch(self, repo):
        objects = json.loads(self.body)["objects"]
        for one in objects:
            if one["oid"] not in self.objects:
                url = f"http://{self.headers['Host']}/objects/{one['oid']}"
                one["actions"] = {"upload": {"href": url}}
        self.reply({"transfer": "basic", "objects": objects})

    def store(self, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.objects[oid] = self.body
        self.reply(b"")

    def commit(self, repo, branch):
        if repo.endswith("/broken"):
            self.close_connection = True
            return
        files = dict(self.repos[repo][self.heads[repo, branch]])
        steps = [json.loads(line) for line in self.body.splitlines()]
        for step in steps:
            value = step["value"]
            if step["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if step["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            if step["key"] == "deletedFile":
                del files[value["path"]]
        self.commits.append(steps)
        oid = self.write(repo, branch, files)
        url = f"http://{self.headers['Host']}/{repo}/commit/{oid}"
        self.reply({"commitOid": oid, "commitUrl": url})

    def info(self, repo, revision):
        if found := self.files(repo, revision):
            names = [{"rfilename": name} for name in found[1]]
            self.reply({"id": repo, "sha": found[0], "siblings": names})

    def tree(self, repo, revision):
        if found := self.files(repo, revision):
            self.reply(
                [
                    {"type": "file", "path": name, "size": len(content)}
                    | {"oid": hashlib.sha1(content).hexdigest()}
                    for name, content in found[1].items()
                ]
            )

    def resolve(self, repo, revision, name):
        if found := self.files(repo, revision):
            if name not in found[1]:
                return self.fail(404, "no such file", "EntryNotFound")
            content = found[1][name]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            self.reply(content, ETag=etag, X_Repo_Commit=found[0])


@contextlib.contextmanager
def stand_in():
    """A server in a thread: its address, and the class with what it holds."""
    stored = {"repos": {}, "heads": {}, "objects": {}, "commits": []}
    handler = type("Hub", (StandIn,), stored)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        server.server_close()
