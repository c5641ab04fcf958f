"""A small Hugging Face Hub on the loopback address, and caches of the Hub's layout, for tests."""

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c" * 40


@contextmanager
def serving(files: Mapping[str, bytes], *, gated: tuple[str, ...] = ()) -> Iterator[str]:
    """Serve `OWNER/NAME/FILE` -> bytes as the Hub does, and yield its address.

    A file is answered with a redirect to another host, where its bytes lie by their hash.
    gated: repositories (`OWNER/NAME`) whose licence nobody has accepted.
    """
    blobs = {hashlib.sha256(data).hexdigest(): data for data in files.values()}

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            if self.path.startswith("/blobs/"):
                self.answer(200, blobs[self.path.removeprefix("/blobs/")])
                return
            repository, _, filename = self.path[1:].partition("/resolve/main/")
            data = files.get(f"{repository}/{filename}")
            if repository in gated:
                self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
            elif not any(name.startswith(f"{repository}/") for name in files):
                self.answer(401, b"", {"X-Error-Code": "RepoNotFound"})
            elif data is None:
                code = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
                self.answer(404, b"", code)
            else:
                digest = hashlib.sha256(data).hexdigest()
                self.answer(
                    302,
                    b"",
                    {
                        "Location": f"http://localhost:{server.server_port}/blobs/{digest}",
                        "X-Repo-Commit": COMMIT,
                        "X-Linked-Etag": f'"{digest}"',
                        "X-Linked-Size": str(len(data)),
                    },
                )

        def answer(self, code: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
            self.send_response(code)
            for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def put_into_cache(cache: Path, repository: str, filename: str, data: bytes) -> Path:
    """Put a file into a cache as the Hub's client does; return its path."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    blob = folder / "blobs" / hashlib.sha256(data).hexdigest()
    link = folder / "snapshots" / COMMIT / filename
    for path in (blob, link, folder / "refs" / "main"):
        path.parent.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    blob.write_bytes(data)
    link.symlink_to(Path("../../blobs") / blob.name)
    return link
