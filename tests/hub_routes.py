"""The HTTP side of the local test Hub: one table of routes over the state in tests.hub_store."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

import yaml
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.hub_store import DATE, Blob, Hub, HubError, Repository, Request, is_lfs


@dataclass(frozen=True)
class Call:
    """One request, parsed: where it goes and what it brings."""

    hub: Hub
    method: str
    token: str | None
    where: dict[str, str]  # the named parts of the path, unquoted
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body or b"{}")

    def flag(self, name: str) -> bool:
        """Whether the query sets a switch."""
        return self.query.get(name, ["0"])[0].lower() in ("1", "true")

    @property
    def repository(self) -> Repository:
        """The repository of the path; HubError 404 as for one that the caller may not see."""
        found = self.hub.repositories.get((self.where.get("kind") or "models", self.where["name"]))
        if found is None or (found.private and self.token != self.hub.token):
            raise HubError(404 if self.token else 401, "Repository not found", "RepoNotFound")
        return found

    def may_write(self) -> Repository:
        """The repository of the path, for a caller with the right token."""
        _signed_in(self)
        return self.repository

    @property
    def revision(self) -> str:
        return self.where.get("revision") or "main"


def whoami(call: Call) -> Response:
    """GET /api/whoami-v2."""
    _signed_in(call)
    access = {"role": "write", "displayName": "test"}
    return JSONResponse({"type": "user", "name": call.hub.user, "orgs": [], "auth": {"accessToken": access}})


def validate_yaml(call: Call) -> Response:
    """POST /api/validate-yaml: the front matter of a model card."""
    try:
        _front_matter(call.json["content"])
    except yaml.YAMLError as error:
        return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, 400)
    return JSONResponse({"errors": [], "warnings": []})


def create(call: Call) -> Response:
    """POST /api/repos/create; 409 with the address when the name is taken."""
    _signed_in(call)
    kind, name = _named_in_body(call)
    url = f"{call.hub.url}/{_prefix(kind)}{name}"
    if (kind, name) in call.hub.repositories:
        return JSONResponse({"error": f"You already created this repository: {name}", "url": url}, 409)
    private = call.json.get("visibility") == "private" or bool(call.json.get("private"))
    call.hub.create(kind, name, private=private)
    return JSONResponse({"url": url, "name": name})


def delete(call: Call) -> Response:
    """DELETE /api/repos/delete."""
    _signed_in(call)
    if call.hub.repositories.pop(_named_in_body(call), None) is None:
        raise HubError(404, "Repository not found", "RepoNotFound")
    return JSONResponse({})


def settings(call: Call) -> Response:
    """PUT /api/{kind}/{name}/settings: visibility and gate."""
    repository = call.may_write()
    repository.private = call.json.get("visibility", "private" if repository.private else "public") == "private"
    repository.gated = bool(call.json.get("gated", repository.gated))
    return JSONResponse({})


def info(call: Call) -> Response:
    """GET /api/{kind}/{name}[/revision/{revision}]."""
    repository = call.repository
    commit = repository.at(call.revision)
    card = _front_matter(commit.files["README.md"].data.decode()) if "README.md" in commit.files else {}
    siblings = []
    for path, blob in sorted(commit.files.items()):
        more: dict[str, Any] = {"size": len(blob.data), "blobId": blob.oid} if call.flag("blobs") else {}
        if more and blob.lfs:
            more["lfs"] = {"sha256": blob.sha256, "size": len(blob.data), "pointerSize": 134}
        siblings.append({"rfilename": path, **more})
    return JSONResponse(
        {
            "_id": repository.name,
            "id": repository.name,
            "modelId": repository.name,
            "author": repository.name.split("/")[0],
            "sha": commit.oid,
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "createdAt": DATE,
            "lastModified": DATE,
            "tags": card.get("tags", []),
            "library_name": card.get("library_name"),
            "pipeline_tag": card.get("pipeline_tag"),
            "cardData": card or None,
            "siblings": siblings,
        }
    )


def tree(call: Call) -> Response:
    """GET /api/{kind}/{name}/tree/{revision}[/{path}]."""
    repository = call.repository
    return JSONResponse(repository.tree(call.revision, call.where.get("path") or "", call.flag("recursive")))


def paths_info(call: Call) -> Response:
    """POST /api/{kind}/{name}/paths-info/{revision}: unknown paths are left out."""
    wanted = parse_qs(call.body.decode()).get("paths", [])
    entries = call.repository.tree(call.revision, "", recursive=True)
    return JSONResponse([entry for entry in entries if entry["path"] in wanted])


def commits(call: Call) -> Response:
    """GET /api/{kind}/{name}/commits/{revision}, the newest first."""
    history = call.repository.history(call.revision)
    return JSONResponse(
        [
            {
                "id": c.oid,
                "title": c.title,
                "message": c.description,
                "date": DATE,
                "authors": [{"user": call.hub.user}],
            }
            for c in history
        ]
    )


def refs(call: Call) -> Response:
    """GET /api/{kind}/{name}/refs."""
    repository = call.repository

    def listed(kind: str, named: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in named.items()]

    pulls = listed("pr", {str(number): oid for number, oid in repository.pulls.items()})
    branches, tags = listed("heads", repository.branches), listed("tags", repository.tags)
    return JSONResponse({"branches": branches, "converts": [], "tags": tags, "pullRequests": pulls})


def create_branch(call: Call) -> Response:
    """POST /api/{kind}/{name}/branch/{branch}."""
    repository = call.may_write()
    if call.where["branch"] in repository.branches:
        raise HubError(409, f"Reference already exists: refs/heads/{call.where['branch']}")
    repository.branches[call.where["branch"]] = repository.at(call.json.get("startingPoint", "main")).oid
    return JSONResponse({})


def create_tag(call: Call) -> Response:
    """POST /api/{kind}/{name}/tag/{revision}."""
    repository = call.may_write()
    if call.json["tag"] in repository.tags:
        raise HubError(409, f"Reference already exists: refs/tags/{call.json['tag']}")
    repository.tags[call.json["tag"]] = repository.at(call.revision).oid
    return JSONResponse({})


def delete_reference(call: Call) -> Response:
    """DELETE /api/{kind}/{name}/branch/{branch} or tag/{revision}."""
    repository = call.may_write()
    named = repository.branches if "branch" in call.where else repository.tags
    if named.pop(call.where.get("branch") or call.revision, None) is None:
        raise HubError(404, "Reference does not exist", "RevisionNotFound")
    return JSONResponse({})


def preupload(call: Call) -> Response:
    """POST /api/{kind}/{name}/preupload/{revision}: which files go to LFS, and what the repository has now."""
    present = call.may_write().at(call.revision).files
    answers = []
    for wanted in call.json["files"]:
        path = wanted["path"]
        mode = "lfs" if is_lfs(path, wanted["size"]) else "regular"
        known = {"oid": present[path].etag} if path in present else {}
        answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
    return JSONResponse({"files": answers})


def lfs_batch(call: Call) -> Response:
    """POST /{name}.git/info/lfs/objects/batch: where to put the objects that are not here yet."""
    call.may_write()
    answers = []
    for wanted in call.json["objects"]:
        address = f"{call.hub.url}/lfs/{wanted['oid']}"
        actions = {"upload": {"href": address}, "verify": {"href": f"{address}/verify"}}
        have = wanted["oid"] in call.hub.uploads
        answers.append({"oid": wanted["oid"], "size": wanted["size"], **({} if have else {"actions": actions})})
    return JSONResponse({"transfer": "basic", "objects": answers})


def lfs_upload(call: Call) -> Response:
    """PUT /lfs/{oid}: the content of one object."""
    if Blob(call.body, lfs=True).sha256 != call.where["oid"]:
        raise HubError(400, "The content does not have the announced sha256")
    call.hub.uploads[call.where["oid"]] = call.body
    return Response()


def lfs_verify(call: Call) -> Response:
    """POST /lfs/{oid}/verify."""
    if len(call.hub.uploads.get(call.where["oid"], b"")) != call.json["size"]:
        raise HubError(404, "The object did not arrive whole")
    return JSONResponse({})


def commit(call: Call) -> Response:
    """POST /api/{kind}/{name}/commit/{revision}: ndjson of a header and of changes."""
    repository = call.may_write()
    before = repository.at(call.revision)
    files = dict(before.files)
    header: dict[str, str] = {}
    for line in call.body.splitlines():
        item = json.loads(line)
        if item["key"] == "header":
            header = item["value"]
        else:
            _apply(call.hub, files, item["key"], item["value"])
    if not before.oid.startswith(header.get("parentCommit", "")):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    title, description = header["summary"], header.get("description", "")
    made, number = repository.commit(call.revision, files, title, description, as_pull=call.flag("create_pr"))
    address = f"{call.hub.url}/{_prefix(repository.kind)}{repository.name}"
    result = {"success": True, "commitOid": made.oid, "commitUrl": f"{address}/commit/{made.oid}"}
    if number is not None:
        result["pullRequestUrl"] = f"{address}/discussions/{number}"
    return JSONResponse(result)


def resolve(call: Call) -> Response:
    """GET or HEAD /{name}/resolve/{revision}/{path}: a file, or the part of it that Range asks for."""
    repository = call.repository
    if repository.gated:
        raise HubError(403 if call.token else 401, f"Access to {repository.name} is restricted", "GatedRepo")
    state = repository.at(call.revision)
    blob = state.files.get(call.where["path"])
    if blob is None:
        raise HubError(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": state.oid})
    headers = {"X-Repo-Commit": state.oid, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    if blob.lfs:
        headers |= {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("range", ""))
    if asked is None:
        return Response(blob.data, headers=headers, media_type="application/octet-stream")
    first, last = int(asked[1]), min(int(asked[2] or len(blob.data)), len(blob.data) - 1)
    headers["Content-Range"] = f"bytes {first}-{last}/{len(blob.data)}"
    if first > last:
        raise HubError(416, "Range not satisfiable", **{**headers, "Content-Range": f"bytes */{len(blob.data)}"})
    return Response(blob.data[first : last + 1], 206, headers, "application/octet-stream")


_REPOSITORY = r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
_GIT = r"/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+?)"
_ROUTES: list[tuple[str, re.Pattern[str], Callable[[Call], Response]]] = [
    (method, re.compile(pattern), handler)
    for method, pattern, handler in (
        ("GET", "/api/whoami-v2", whoami),
        ("POST", "/api/validate-yaml", validate_yaml),
        ("POST", "/api/repos/create", create),
        ("DELETE", "/api/repos/delete", delete),
        ("GET", _REPOSITORY, info),
        ("GET", _REPOSITORY + r"/revision/(?P<revision>[^/]+)", info),
        ("GET", _REPOSITORY + r"/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?", tree),
        ("POST", _REPOSITORY + r"/paths-info/(?P<revision>[^/]+)", paths_info),
        ("GET", _REPOSITORY + r"/commits/(?P<revision>[^/]+)", commits),
        ("GET", _REPOSITORY + r"/refs", refs),
        ("PUT", _REPOSITORY + r"/settings", settings),
        ("POST", _REPOSITORY + r"/branch/(?P<branch>[^/]+)", create_branch),
        ("DELETE", _REPOSITORY + r"/branch/(?P<branch>[^/]+)", delete_reference),
        ("POST", _REPOSITORY + r"/tag/(?P<revision>[^/]+)", create_tag),
        ("DELETE", _REPOSITORY + r"/tag/(?P<revision>[^/]+)", delete_reference),
        ("POST", _REPOSITORY + r"/preupload/(?P<revision>[^/]+)", preupload),
        ("POST", _REPOSITORY + r"/commit/(?P<revision>[^/]+)", commit),
        ("POST", _GIT + r"\.git/info/lfs/objects/batch", lfs_batch),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", lfs_upload),
        ("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/verify", lfs_verify),
        ("GET", _GIT + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve),
    )
]


def application(hub: Hub) -> Starlette:
    """The ASGI application that answers for a Hub."""

    async def answer(request: HttpRequest) -> Response:
        path = request.scope["raw_path"].decode().split("?")[0]  # still quoted: a revision may hold a slash
        token = request.headers.get("authorization", "").removeprefix("Bearer ") or None
        hub.requests.append(Request(request.method, path, token))
        body = await request.body()
        query = parse_qs(request.url.query)
        try:
            if hub.refusing:
                raise HubError(503, "this test is offline: no request was expected")
            if token not in (None, hub.token):
                raise HubError(401, "Invalid credentials in Authorization header")
            failure = hub.failure_for(request.method, path)
            if failure is not None and failure.after_bytes is None:
                raise HubError(failure.status, failure.message, failure.code)
            handler, where = _route("GET" if request.method == "HEAD" else request.method, path)
            response = handler(Call(hub, request.method, token, where, query, dict(request.headers), body))
        except HubError as error:
            headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
            return JSONResponse({"error": str(error)}, error.status, headers | error.headers)
        if failure is not None and failure.after_bytes is not None:
            return StreamingResponse(
                _torn(bytes(response.body), failure.after_bytes), response.status_code, response.headers
            )
        return response

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST", "PUT", "DELETE"])])


def _route(method: str, path: str) -> tuple[Callable[[Call], Response], dict[str, str]]:
    for verb, pattern, handler in _ROUTES:
        match = pattern.fullmatch(path)
        if verb == method and match is not None:
            return handler, {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
    if "/resolve/" in path or re.match("/api/(models|datasets|spaces)/", path):
        raise HubError(404, "Repository not found", "RepoNotFound")  # for instance a name without an owner
    raise HubError(501, f"the test Hub has no {method} {path}")


def _torn(content: bytes, after_bytes: int) -> Iterator[bytes]:
    yield content[:after_bytes]
    raise ConnectionAbortedError("simulated")


def _signed_in(call: Call) -> None:
    if call.token != call.hub.token:
        raise HubError(401, "Invalid username or password.")


def _prefix(kind: str) -> str:
    return "" if kind == "models" else f"{kind}/"


def _named_in_body(call: Call) -> tuple[str, str]:
    asked = call.json
    return (asked.get("type") or "model") + "s", f"{asked.get('organization') or call.hub.user}/{asked['name']}"


def _front_matter(text: str) -> dict[str, Any]:
    match = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    return (yaml.safe_load(match[1]) or {}) if match else {}


def _apply(hub: Hub, files: dict[str, Blob], key: str, value: dict[str, str]) -> None:
    path = value["path"]
    if key == "file":
        files[path] = Blob(base64.b64decode(value["content"]), lfs=False)
    elif key == "lfsFile" and value["oid"] in hub.uploads:
        files[path] = Blob(hub.uploads[value["oid"]], lfs=True)
    elif key == "deletedFile" and path in files:
        del files[path]
    elif key == "deletedFolder":
        for inside in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
            del files[inside]
    else:
        raise HubError(400, f"Cannot apply {key} to {path}")
