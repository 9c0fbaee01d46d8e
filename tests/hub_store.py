"""The state of the local test Hub, in memory: repositories with real commits, requests seen, failures to simulate."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".tar", ".npy", ".npz", ".parquet", ".onnx", ".mp4")
LFS_SIZE = 10 * 1024 * 1024  # larger files are LFS whatever their name, as on the Hub
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
DATE = "2026-01-01T00:00:00.000Z"


class HubError(Exception):
    """An answer of the Hub that is not a success; `code` becomes the header X-Error-Code."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers


@dataclass(frozen=True)
class Blob:
    """One version of one file."""

    data: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        """The name git gives the content: of the pointer file when the content is in LFS."""
        stored = self.data
        if self.lfs:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
            stored = pointer.encode()
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid

    def describe(self) -> dict[str, Any]:
        """The entry of this file in tree listings, without its path."""
        entry: dict[str, Any] = {"type": "file", "oid": self.oid, "size": len(self.data)}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": 134}
        return entry


@dataclass(frozen=True)
class Commit:
    """A complete state of a repository."""

    oid: str
    title: str
    description: str
    parent: str | None
    files: Mapping[str, Blob]


@dataclass
class Repository:
    """One model, dataset or space."""

    kind: str  # models | datasets | spaces
    name: str  # owner/name
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        first = self._record("initial commit", "", None, {".gitattributes": Blob(GIT_ATTRIBUTES, lfs=False)})
        self.branches["main"] = first.oid

    def at(self, revision: str) -> Commit:
        """The commit of a branch, tag, pull request, or (abbreviated) hash; HubError 404 when there is none."""
        named = {**self.tags, **self.branches}
        named |= {f"refs/heads/{name}": oid for name, oid in self.branches.items()}
        named |= {f"refs/pr/{number}": oid for number, oid in self.pulls.items()}
        oids = [named[revision]] if revision in named else [oid for oid in self.commits if oid.startswith(revision)]
        if len(oids) != 1 or (revision not in named and len(revision) < 7):
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oids[0]]

    def commit(
        self, revision: str, files: Mapping[str, Blob], title: str, description: str = "", *, as_pull: bool = False
    ) -> tuple[Commit, int | None]:
        """Make `files` the state of a branch, a pull request, or a new pull request; returns (commit, its number)."""
        commit = self._record(title, description, self.at(revision).oid, files)
        name = revision.removeprefix("refs/heads/")
        if as_pull:
            number = len(self.pulls) + 1
            self.pulls[number] = commit.oid
            return commit, number
        if name.startswith("refs/pr/"):
            self.pulls[int(name.rpartition("/")[2])] = commit.oid
        elif name in self.branches:
            self.branches[name] = commit.oid
        else:
            raise HubError(400, f"Cannot commit to {revision}: it is not a branch")
        return commit, None

    def history(self, revision: str) -> list[Commit]:
        """The commits from a revision back to the first one."""
        found = [self.at(revision)]
        while found[-1].parent is not None:
            found.append(self.commits[found[-1].parent])
        return found

    def tree(self, revision: str, folder: str, recursive: bool) -> list[dict[str, Any]]:
        """Entries of the files (and folders) under `folder`; HubError 404 when it holds nothing."""
        commit = self.at(revision)
        prefix = folder.strip("/") + "/" if folder.strip("/") else ""
        below = {path: blob for path, blob in commit.files.items() if path.startswith(prefix)}
        if prefix and not below:
            raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        folders = {path[:end] for path in below for end, sign in enumerate(path) if sign == "/" and end >= len(prefix)}
        entries = [{"path": path, **blob.describe()} for path, blob in below.items()]
        entries += [
            {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}
            for path in folders
        ]
        shown = [entry for entry in entries if recursive or "/" not in entry["path"][len(prefix) :]]
        return sorted(shown, key=lambda entry: entry["path"])

    def _record(self, title: str, description: str, parent: str | None, files: Mapping[str, Blob]) -> Commit:
        state = f"{self.kind}/{self.name} {len(self.commits)} {parent} {title}\n"
        state += "\n".join(f"{path} {blob.oid}" for path, blob in sorted(files.items()))
        commit = Commit(hashlib.sha1(state.encode()).hexdigest(), title, description, parent, dict(files))
        self.commits[commit.oid] = commit
        return commit


def is_lfs(path: str, size: int) -> bool:
    """Whether the Hub keeps a new file of this name and size in LFS."""
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size > LFS_SIZE)


@dataclass(frozen=True)
class Request:
    """One request that reached the server; `path` as it was sent, without the query."""

    method: str
    path: str
    token: str | None


@dataclass
class Failure:
    """What happens instead of an answer to the requests whose path contains `contains`."""

    contains: str
    method: str | None
    status: int
    code: str | None
    message: str
    after_bytes: int | None  # drop the connection there; the status is not used then
    times: int | None  # None: always


@dataclass
class Hub:
    """The state of the server, and what tests say to it."""

    url: str
    token: str = "hf_test"
    user: str = "tester"
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)  # LFS objects by sha256
    requests: list[Request] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    refusing: bool = False

    def reset(self) -> None:
        """Forget all repositories, requests and failures."""
        for kept in (self.repositories, self.uploads, self.requests, self.failures):
            kept.clear()
        self.refusing = False

    def add(self, name: str, files: Mapping[str, bytes | str | Path] | Path, *, kind: str = "models") -> Repository:
        """Put files (contents, local paths, or a whole folder) into a repository as one commit, without a client."""
        if isinstance(files, Path):
            folder = files
            files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
        repository = self.repositories.get((kind, name)) or self.create(kind, name)
        state = dict(repository.at("main").files)
        for path, content in files.items():
            data = content.read_bytes() if isinstance(content, Path) else content
            data = data.encode() if isinstance(data, str) else data
            state[path] = Blob(data, is_lfs(path, len(data)))
            if state[path].lfs:
                self.uploads[state[path].sha256] = data
        repository.commit("main", state, "Add files")
        return repository

    def create(self, kind: str, name: str, *, private: bool = False) -> Repository:
        """A new repository with the Hub's first commit; HubError 409 when the name is taken."""
        if (kind, name) in self.repositories:
            raise HubError(409, f"You already created this {kind.removesuffix('s')} repo: {name}")
        self.repositories[kind, name] = Repository(kind, name, private=private)
        return self.repositories[kind, name]

    def files(self, name: str, revision: str = "main", *, kind: str = "models") -> dict[str, bytes]:
        """The contents of a revision, without the .gitattributes that every repository starts with."""
        state = self.repositories[kind, name].at(revision).files
        return {path: blob.data for path, blob in state.items() if path != ".gitattributes"}

    def count(self, contains: str = "", method: str | None = None) -> int:
        """How many requests had this in their path, since the start of the test or the last `requests.clear()`."""
        return sum(contains in each.path and method in (None, each.method) for each in self.requests)

    def fail(
        self,
        contains: str = "",
        status: int = 503,
        *,
        method: str | None = None,
        code: str | None = None,
        message: str = "simulated failure",
        times: int | None = None,
    ) -> None:
        """Answer requests whose path contains a text by an error, `times` times or always (clear `failures`)."""
        self.failures.append(Failure(contains, method, status, code, message, None, times))

    def drop(self, contains: str, after_bytes: int, *, times: int | None = 1) -> None:
        """Close the connection in the midst of a GET whose path contains a text."""
        self.failures.append(Failure(contains, "GET", 0, None, "", after_bytes, times))

    def failure_for(self, method: str, path: str) -> Failure | None:
        """The failure that a request meets, if any; counts it."""
        for failure in self.failures:
            if failure.contains in path and failure.method in (None, method) and failure.times != 0:
                failure.times = None if failure.times is None else failure.times - 1
                return failure
        return None
