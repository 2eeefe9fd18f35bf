"""``opid-gym serve webshop``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from opid_gym.access import access_for
from opid_gym.cli import AllowHostOption, OpenOption, TokenOption
from opid_gym.console import talk
from opid_gym_envs.webshop.env import WebShop


def serve(
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the official data; made-up products if not given.")
    ] = None,
    catalogue: Annotated[
        str | None, typer.Option(help="Which official catalogue: full, small, or ITEMS.json+ATTRIBUTES.json.")
    ] = None,
    goals: Annotated[str, typer.Option(help="synthetic, or human (official data only).")] = "synthetic",
    split: Annotated[str, typer.Option(help="Which tasks: train, eval or test.")] = "train",
    num_products: Annotated[int | None, typer.Option(help="Size of the made-up catalogue.", min=1)] = None,
    search: Annotated[str, typer.Option(help="native, or lucene.")] = "native",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 3000,
    seed: Annotated[int, typer.Option(help="Seed of the order of tasks.", min=0)] = 0,
    token: TokenOption = None,
    open_: OpenOption = False,
    allow_host: AllowHostOption = None,
) -> None:
    """The shop as a site, for people and browsers."""
    from opid_gym_envs.webshop.site import SiteServer, Visits, create_app

    access = access_for(host, token, allow_host or (), open_to_all=open_)
    shop = WebShop(
        data_dir=data_dir, catalogue=catalogue, goals=goals, split=split, num_products=num_products, search=search
    )
    kind = f"official, {shop.catalogue.files.name}" if shop.catalogue.files else "generated"
    with SiteServer(create_app(Visits(shop, seed=seed), access), host=host, port=port) as server:
        key = " (open it once with /?token= and the token)" if token else ""
        talk.print(f"[bold]{server.url}[/]{key} sells {len(shop.catalogue):,} products ({kind}); Ctrl-C closes it")
        try:
            server.wait()
        except KeyboardInterrupt:
            talk.print("closed")
