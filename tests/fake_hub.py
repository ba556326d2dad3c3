"""A hub on this machine that serves folders as huggingface_hub asks for them, and notes what was asked.

The paths and headers are those that huggingface_hub 2.4 uses (``hf_api.py``, ``file_download.py``): file lists by
``/api/models/<id>/tree/<revision>``, files by ``/<id>/resolve/<revision>/<path>``.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants


@dataclass
class FakeHub:
    """``repositories``: id → revision → folder; ``fetched``: the files whose content was sent, in order."""

    url: str = ""
    repositories: dict[str, dict[str, Path]] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)

    def commit(self, repository: str, revision: str) -> str | None:
        """The commit of a revision, by name or by itself."""
        commits = {name: hashlib.sha1(f"{repository} {name}".encode()).hexdigest() for name in self.known(repository)}
        return commits.get(revision) or (revision if revision in commits.values() else None)

    def known(self, repository: str) -> dict[str, Path]:
        return self.repositories.get(repository, {})

    def folder(self, repository: str, commit: str) -> Path:
        return next(path for name, path in self.known(repository).items() if self.commit(repository, name) == commit)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            repository, what, revision = "/".join(parts[2:4]), parts[4] if len(parts) > 4 else "", parts[5:]
            commit = self.commit(repository, revision[0] if revision else "main")
            if commit is None:
                return self._missing(repository)
            files = self._files(repository, commit)
            if what == "tree":
                return 200, {}, json.dumps(files).encode()
            siblings = [{"rfilename": entry["path"]} for entry in files]
            return 200, {}, json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode()
        repository, name = "/".join(parts[:2]), "/".join(parts[4:])
        commit = self.commit(repository, parts[3])
        if commit is None:
            return self._missing(repository)
        file = self.folder(repository, commit) / name
        if not file.is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        content = file.read_bytes()
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}, content

    def _files(self, repository: str, commit: str) -> list[dict[str, object]]:
        folder = self.folder(repository, commit)
        return [
            {"type": "file", "path": file.relative_to(folder).as_posix(), "size": file.stat().st_size, "oid": "0" * 40}
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        ]

    def _missing(self, repository: str) -> tuple[int, dict[str, str], bytes]:
        code = "RevisionNotFound" if self.known(repository) else "RepoNotFound"
        return 404, {"X-Error-Code": code}, b""


@contextmanager
def fake_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[FakeHub]:
    """Serve; the client of this process asks there, and keeps what it gets in ``cache``."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def _send(self, *, body: bool) -> None:
            status, headers, content = hub.answer(self.path)
            if body and status == 200 and "/resolve/" in self.path:
                hub.fetched.append(unquote(self.path).split("/resolve/")[1].partition("/")[2])
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def do_HEAD(self) -> None:
            self._send(body=False)

        def do_GET(self) -> None:
            self._send(body=True)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
