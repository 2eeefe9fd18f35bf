"""The commands ``opid-gym index`` and ``opid-gym serve search``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from opid_gym.access import access_for
from opid_gym.cli import AllowHostOption, OpenOption, TokenOption, env_arguments
from opid_gym.console import progress_bar, talk
from opid_gym.named import missing_extra
from opid_gym_envs.searchqa.retrievers.index import ENGINES, Manifest, build_index, read_manifest

Engine = Annotated[str, typer.Option(help=f"One of {', '.join(ENGINES)}.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Setting of the engine, as key=value; may be repeated, e.g. model=intfloat/e5-base-v2."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of text.")]


def index(
    corpus: Annotated[Path, typer.Argument(help="File or folder of passages: JSON, CSV, TSV, Parquet or Arrow.")],
    out: Annotated[Path, typer.Option(help="Folder of the index.")],
    engine: Engine = "bm25",
    set_: Settings = None,
    as_json: Json = False,
) -> None:
    """Build a search index of a corpus. Interrupted, the same command goes on."""
    started = time.perf_counter()
    try:
        manifest = build_index(corpus, out, engine, env_arguments(None, None, set_), stage, thorough=True)
    except KeyboardInterrupt:
        talk.print("Interrupted: the same command goes on from here.")
        raise
    seconds = time.perf_counter() - started
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if as_json:
        print(json.dumps({"out": str(out), "seconds": round(seconds, 2), "bytes": size, **_about(manifest)}))
        return
    talk.print(
        f"{manifest.count:,} passages for {manifest.engine} in {out}   {size / 1e6:,.0f} MB   {seconds:.1f} s",
        soft_wrap=True,
    )
    talk.print(f"Serve it: [bold]opid-gym serve search --index {out}[/]", soft_wrap=True)


def search(
    index: Annotated[Path | None, typer.Option(help="Folder that `opid-gym index` or pyserini made.")] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Corpus to build an index of first, kept for the next time.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="Engine for --corpus; bm25 if not given.")] = None,
    set_: Settings = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for other machines too.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8000,
    topk: Annotated[int, typer.Option(help="Passages where a request does not say how many.", min=1)] = 3,
    batch_size: Annotated[int, typer.Option(help="Maximum queries searched together.", min=1)] = 64,
    window: Annotated[float, typer.Option(help="Milliseconds a request waits for others.", min=0)] = 0.0,
    queue: Annotated[
        int, typer.Option(help="Maximum number of waiting queries; more are answered with status 429.", min=1)
    ] = 32_768,
    replicas: Annotated[int, typer.Option(help="Servers behind the address; above 1 on Ray Serve.", min=1)] = 1,
    token: TokenOption = None,
    open_: OpenOption = False,
    allow_host: AllowHostOption = None,
) -> None:
    """Serve a search index over HTTP, to clients of Search-R1, SkyRL, OPID and GEM."""
    access = access_for(host, token, allow_host or (), open_to_all=open_)
    folder = _index_folder(index, corpus, engine, set_)
    manifest = read_manifest(folder)
    options = {"topk": topk, "batch_size": batch_size, "window": window / 1000, "queue": queue, "access": access}

    count = "passages" if manifest.count is None else f"{manifest.count:,} passages"

    def announce(address: str) -> None:
        talk.print(
            f"{count} with {manifest.engine} at [bold]{address}/retrieve[/] (and /health, /metrics, /docs)",
            soft_wrap=True,
        )

    if replicas > 1:
        server = _server("replicas")
        server.serve_replicas(folder, options, host=host, port=port, replicas=replicas, announce=announce)
    else:
        _server("single").serve_single(folder, options, host=host, port=port, announce=announce)


@contextmanager
def stage(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar that vanishes when its stage is over, and a line that stays."""
    started = time.perf_counter()
    with progress_bar(name, total) as advance:
        yield advance
    talk.print(f"{name}: {time.perf_counter() - started:.1f} s")


def _index_folder(index: Path | None, corpus: Path | None, engine: str | None, set_: Sequence[str] | None) -> Path:
    if (index is None) == (corpus is None):
        raise ValueError("give either --index, or --corpus to build one of")
    if corpus is not None:
        from opid_gym_envs.searchqa.retrievers import cached_index

        return cached_index(corpus, engine or "bm25", env_arguments(None, None, set_), stage=stage)
    if engine is not None or set_:
        raise ValueError("--engine and --set belong to --corpus; the index says what it was built with")
    assert index is not None
    return index


def _about(manifest: Manifest) -> dict[str, Any]:
    return {
        "engine": manifest.engine,
        "settings": manifest.settings,
        "passages": manifest.count,
        "corpus": manifest.corpus,
    }


def _server(name: str) -> ModuleType:
    try:
        return import_module(f"opid_gym_envs.searchqa.server.{name}")
    except ModuleNotFoundError as error:
        raise missing_extra("the search server", error.name or name, "search") from None
