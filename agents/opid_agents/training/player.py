"""A process of its own that plays: it gets weights and tasks, and gives trajectories back.

A process and not a thread, because the games and most of what a small model does are Python, of which one process runs
one thread at a time.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path

import safetensors.torch
import torch

from opid_agents.policy import Policy
from opid_agents.recipes.recipe import Recipe
from opid_agents.sampling.sampler import Sampler
from opid_agents.sampling.vllm import VLLMSampler
from opid_agents.skills.library import SkillLibrary
from opid_agents.training.checkpoint import seed_everything
from opid_agents.training.rollouts import Part, play_part
from opid_agents.training.setup import lm_settings, load_policy, make_envs, set_threads
from opid_gym.trajectory import Trajectory

_GRACE = 10.0  # seconds in which a player closes what it has opened


class PlayerLost(OSError):
    """The process that plays has ended before it had played."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be played, and with what.

    Attributes:
        part: of which iteration.
        weights: as `weights_of` gives them.
        library: its skills are in the prompts; None: no skills.
    """

    part: Part
    weights: bytes
    library: SkillLibrary | None = None


@dataclass(frozen=True, slots=True)
class Played:
    """What came of an order, and how many seconds it took to play."""

    trajectories: list[Trajectory]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Setup:
    """What a player is made from."""

    recipe: Recipe
    start: Path
    folder: Path
    games: int


class Player:
    """A process that plays what is ordered, one order after the other.

    It ends with the process that made it, however that ends. Ctrl-C does not reach it.

    Args:
        recipe: of the run; its device and its sampler are the player's.
        start: folder of a policy of this shape.
        folder: where vLLM is handed weights.
        games: played at once.
    """

    def __init__(self, recipe: Recipe, start: Path, folder: Path, games: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        # vLLM starts processes itself, which a daemon must not.
        self._process = context.Process(
            target=_serve,
            args=(theirs, _Setup(recipe, start.resolve(), folder.resolve(), games)),
            name="opid-gym player",
            daemon=recipe.sampler.kind == "hf",
        )
        with _interrupts_held():
            self._process.start()
        theirs.close()

    @property
    def pid(self) -> int | None:
        """The process's number."""
        return self._process.pid

    def order(self, order: Order) -> None:
        """Let something be played after all that was ordered before; does not wait for it.

        Raises:
            PlayerLost: the process has ended.
        """
        try:
            self._pipe.send(order)
        except OSError:
            raise self._lost() from None

    def take(self) -> Played:
        """What came of the oldest order that was not taken yet; waits for it.

        Raises:
            PlayerLost: the process has ended.
            Exception: whatever playing has raised.
        """
        try:
            found = self._pipe.recv()
        except (EOFError, OSError):
            raise self._lost() from None
        if isinstance(found, BaseException):
            raise found
        assert isinstance(found, Played)
        return found

    def close(self) -> None:
        """End the process; what it was playing is lost."""
        self._pipe.close()
        self._process.join(_GRACE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()

    def _lost(self) -> PlayerLost:
        self._process.join(_GRACE)
        code = self._process.exitcode
        how = f"was ended by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended (exit {code})"
        return PlayerLost(f"the process that plays ahead (staleness) {how}; the run can go on from its last checkpoint")


def weights_of(policy: Policy) -> bytes:
    """The weights that training changes, in the safetensors format."""
    trained = {name: weight for name, weight in policy.model.named_parameters() if weight.requires_grad}
    return safetensors.torch.save({name: weight.detach().cpu().contiguous() for name, weight in trained.items()})


def set_weights(policy: Policy, weights: bytes) -> None:
    """Give a policy what `weights_of` another of its shape has given."""
    known = dict(policy.model.named_parameters())
    with torch.no_grad():
        for name, weight in safetensors.torch.load(weights).items():
            known[name].copy_(weight)


def _serve(pipe: Connection, setup: _Setup) -> None:
    """The process: play what comes through the pipe, until nobody is at its other end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
    # Orders are read at once, so that nobody waits to write one while the other waits to write what was played.
    threading.Thread(target=_receive, args=(pipe, orders), daemon=True).start()
    try:
        _play_all(pipe, orders, setup)
    except Exception as error:
        with suppress(OSError):
            pipe.send(_sendable(error))
        orders.get()  # until the other end is closed


def _receive(pipe: Connection, orders: queue.SimpleQueue[Order]) -> None:
    try:
        while True:
            orders.put(pipe.recv())
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)


def _play_all(pipe: Connection, orders: queue.SimpleQueue[Order], setup: _Setup) -> None:
    recipe = setup.recipe
    set_threads(recipe)
    if torch.device(recipe.model.device).type == "cuda":
        torch.cuda.set_device(recipe.model.device)
    policy = load_policy(setup.start, recipe.model)
    settings = lm_settings(recipe)
    sampler: Sampler | None = None
    envs = make_envs(recipe, recipe.world.train_split, setup.games)
    try:
        if recipe.sampler.kind == "vllm":
            sampler = VLLMSampler(policy, setup.folder, recipe.sampler.options, constrain=recipe.sampler.constrain)
        while True:
            order = orders.get()
            started = time.perf_counter()
            set_weights(policy, order.weights)
            if sampler is not None:
                sampler.sync()
            seed_everything(recipe.seed, "iteration", order.part.iteration)
            played = play_part(recipe, settings, policy, envs, order.part, library=order.library, sampler=sampler)
            pipe.send(Played(played, time.perf_counter() - started))
    finally:
        if sampler is not None:
            sampler.close()
        envs.close()


def _sendable(error: Exception) -> Exception:
    """An error as the other process can read it."""
    try:
        found = pickle.loads(pickle.dumps(error))
    except Exception:  # some errors cannot be made again from their arguments
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error if str(found) == str(error) else RuntimeError(f"{type(error).__name__}: {error}")


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Within it, processes that are started get no Ctrl-C, ever; here it comes a moment later."""
    resource_tracker.ensure_running()  # or it is started with the process, which ends the hold
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
