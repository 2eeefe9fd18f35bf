"""The commands `opid-gym export` and `opid-gym serve env`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from opid_gym.access import access_for
from opid_gym.cli import (
    DEFAULT_ENV,
    AllowHostOption,
    EnvOption,
    OpenOption,
    SetOption,
    SplitOption,
    StepsOption,
    TokenOption,
    env_arguments,
)
from opid_gym.console import talk
from opid_gym.patience import impatient
from opid_gym.trajectory import Trajectory, read_jsonl


def export(
    files: Annotated[list[Path], typer.Argument(help="Trajectories as JSON Lines; a folder means all in it.")],
    parquet: Annotated[Path | None, typer.Option(help="Write this Parquet file.")] = None,
    minari: Annotated[
        str | None, typer.Option(help="Write a Minari dataset of this id, e.g. alfworld/expert-v0.")
    ] = None,
    successes: Annotated[bool, typer.Option("--successes", help="Only episodes that solved their task.")] = False,
) -> None:
    """Write trajectories for offline use, as Parquet or as a Minari dataset."""
    if (parquet is None) == (minari is None):
        raise ValueError("give either --parquet FILE or --minari ID")
    from opid_gym.interop.export import write_minari, write_parquet

    def chosen() -> Iterator[Trajectory]:
        for path in files:
            for file in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
                yield from (t for t in read_jsonl(file) if t.success or not successes)

    if parquet is not None:
        talk.print(f"{write_parquet(parquet, chosen())} episodes in {parquet}")
    else:
        assert minari is not None
        dataset = write_minari(minari, chosen())
        talk.print(f"{dataset.total_episodes} episodes, {dataset.total_steps} steps in the Minari dataset {minari}")


def env(
    env: EnvOption = DEFAULT_ENV,
    split: SplitOption = None,
    max_episode_steps: StepsOption = None,
    set_: SetOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for other machines too.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8000,
    sessions: Annotated[int, typer.Option(help="Most sessions at once.", min=1)] = 64,
    idle_seconds: Annotated[
        float, typer.Option(help="A session that is not used for this long is ended.", min=0.0)
    ] = 600.0,
    token: TokenOption = None,
    open_: OpenOption = False,
    allow_host: AllowHostOption = None,
) -> None:
    """Serve an environment over HTTP, in the shape of OpenEnv's servers."""
    from opid_gym.interop.server import Limits, make_app

    access = access_for(host, token, allow_host or (), open_to_all=open_)
    limits = Limits(sessions, idle_seconds, max_episode_steps=max_episode_steps)
    app = make_app(env, limits, access, **env_arguments(split, None, set_))
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol  # because it limits how long headers may be

    config = uvicorn.Config(app, host=host, port=port, log_level="warning", http=impatient(H11Protocol))
    server = uvicorn.Server(config)
    listening = config.bind_socket()
    listening.listen()  # who reads the address below may connect at once
    talk.print(f"{env} at [bold]http://{host}:{listening.getsockname()[1]}[/]  (Ctrl-C ends it)", soft_wrap=True)
    server.run(sockets=[listening])
