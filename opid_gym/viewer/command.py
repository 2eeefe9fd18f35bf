"""The command `opid-gym view`."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SHUT_RDWR
from threading import Lock, Timer
from typing import Annotated

import typer

from opid_gym.console import talk
from opid_gym.files import write_file
from opid_gym.patience import REQUEST_SECONDS
from opid_gym.viewer.page import build_page
from opid_gym.viewer.reading import Collection, files_in, read_folder

_HOST = "127.0.0.1"
_PROBLEMS_SHOWN = 5


def view(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A run, a benchmark, a folder of them, or a file of trajectories.")
    ],
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0: any that is free.", min=0, max=65535)] = 8137,
    out: Annotated[Path | None, typer.Option(help="Also write the page to this file.")] = None,
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve the page; off: only write it.")] = True,
) -> None:
    """Look at runs in the browser: curves, success by task type, and every trajectory down to its tokens."""
    if not serve and out is None:
        raise ValueError("--no-serve writes the page and stops: say where to with --out FILE")
    source = Source(folder)
    page = source.page()
    runs = source.collection.runs
    count = sum(len(run.trajectories) for run in runs)
    talk.print(f"{len(runs)} run{'s' * (len(runs) != 1)}, {count:,} trajectories, a page of {len(page) / 1e6:.1f} MB")
    problems = source.collection.problems
    for problem in problems[:_PROBLEMS_SHOWN]:
        talk.print(f"not shown: {problem}", style="yellow", markup=False, soft_wrap=True)
    if len(problems) > _PROBLEMS_SHOWN:
        talk.print(f"... and {len(problems) - _PROBLEMS_SHOWN} more, listed in the page", style="yellow")
    if out is not None:
        write_file(out, page)
        talk.print(f"written to {out}", markup=False, soft_wrap=True)
    if serve:
        try:
            server = ThreadingHTTPServer((_HOST, port), partial(_Handler, source))
        except OSError as error:
            raise OSError(f"cannot serve on port {port} ({error.strerror}); choose another with --port") from None
        with server:
            print(f"http://{_HOST}:{server.server_port}/", flush=True)
            talk.print("Reload the page to see what was written since; Ctrl-C ends.")
            server.serve_forever()


def write_page(folder: Path, out: Path) -> None:
    """Write the page of a folder to a file.

    Raises:
        ValueError: see `read_folder`.
    """
    write_file(out, build_page(read_folder(folder)))


class Source:
    """The page of a folder, made anew when its files have changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.collection = Collection("")
        self._seen: list[tuple[Path, int, int]] | None = None
        self._page = b""
        self._lock = Lock()

    def page(self) -> bytes:
        """The page as it is now.

        Raises:
            ValueError: see `read_folder`.
        """
        with self._lock:
            files = [(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files_in(self.folder)]
            if files != self._seen:
                self.collection = read_folder(self.folder)
                self._page = build_page(self.collection).encode("utf-8")
                self._seen = files
            return self._page


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_SECONDS  # that the client may take to send something, or to read the page

    def __init__(self, source: Source, *args: object) -> None:
        self._source = source
        super().__init__(*args)  # type: ignore[arg-type]

    def handle(self) -> None:
        """Answer a request, if it is there in time as a whole."""
        self._limit = Timer(self.timeout, self._give_up)
        self._limit.daemon = True
        self._limit.start()
        try:
            super().handle()
        except OSError:  # the client is gone
            self.close_connection = True
        finally:
            self._limit.cancel()

    def _give_up(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(SHUT_RDWR)

    def do_GET(self) -> None:
        """The page at ``/``, and nothing anywhere else."""
        self._limit.cancel()
        # Another site whose name was made to point to this machine must not read runs through somebody's browser.
        if (self.headers["Host"] or "").rpartition(":")[0] not in (_HOST, "localhost"):
            self.send_error(403)
        elif self.path.partition("?")[0] != "/":
            self.send_error(404)
        else:
            try:
                page = self._source.page()
            except (ValueError, OSError) as error:
                self._answer(500, "text/plain; charset=utf-8", str(error).encode("utf-8", "replace"))
            else:
                self._answer(200, "text/html; charset=utf-8", page)

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not worth a line each."""
