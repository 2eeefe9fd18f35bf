"""``opid-gym serve webshop``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from opid_gym_envs.webshop.env import WebShop

talk = Console(stderr=True, highlight=False)


def serve(
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the official data; made-up products if not given.")
    ] = None,
    goals: Annotated[str, typer.Option(help="synthetic, or human (official data only).")] = "synthetic",
    split: Annotated[str, typer.Option(help="Which tasks: train, eval or test.")] = "train",
    num_products: Annotated[int | None, typer.Option(help="Size of the made-up catalogue.", min=1)] = None,
    search: Annotated[str, typer.Option(help="native, or lucene.")] = "native",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 3000,
    seed: Annotated[int, typer.Option(help="Seed of the order of tasks.", min=0)] = 0,
) -> None:
    """The shop as a site, for people and browsers."""
    from opid_gym_envs.webshop.site import SiteServer, Visits, create_app

    shop = WebShop(data_dir=data_dir, goals=goals, split=split, num_products=num_products, search=search)
    with SiteServer(create_app(Visits(shop, seed=seed)), host=host, port=port) as server:
        talk.print(f"[bold]{server.url}[/] sells {len(shop.catalogue):,} products; Ctrl-C closes it")
        try:
            server.wait()
        except KeyboardInterrupt:
            talk.print("closed")
