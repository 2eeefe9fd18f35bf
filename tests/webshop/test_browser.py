"""`opid/WebShopSite-v0` in a real browser, next to the text environment."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import psutil
import pytest

import opid_gym
from opid_gym_envs.webshop.browser import Browser, BrowserCrashError, BrowserSlowError, WebShopSite
from tests.patience import SECONDS
from tests.processes import hear_signals, running
from tests.webshop.stock_data import FOLDER, stock_episodes, stock_goals

gym.register_envs(opid_gym)
pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")), reason="no Chromium with its driver here"
)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may be busy: a browser has as long as everything else that a test waits for."""
    monkeypatch.setattr("opid_gym_envs.webshop.browser.LONGEST_WAIT", SECONDS)


@pytest.fixture(scope="module")
def envs() -> Iterator[tuple[gym.Env[str, str], gym.Env[str, str]]]:
    prices = stock_goals(False)["prices"]
    text = gym.make("opid/WebShop-v0", data_dir=FOLDER, prices=prices, max_episode_steps=40)
    site = gym.make("opid/WebShopSite-v0", data_dir=FOLDER, prices=prices, max_episode_steps=40)
    yield text, site
    text.close()
    site.close()


def same(text: tuple[Any, ...], site: tuple[Any, ...], over: bool = False) -> None:
    """Equal observation (before the last page), reward and ends, and equal info."""
    assert "crashed" not in site[-1], site[-1]["crashed"]
    assert text[1:-1] == site[1:-1]
    assert text[-1]["admissible_actions"] == site[-1]["admissible_actions"]
    if not over:
        assert text[0] == site[0]
        assert text[-1]["anchor"] == site[-1]["anchor"]
    assert {k: v for k, v in text[-1].items() if k != "anchor"} == {k: v for k, v in site[-1].items() if k != "anchor"}


def test_recorded_episodes_of_stock_play_alike_in_a_browser(envs: tuple[Any, Any]) -> None:
    """Products with HTML in their titles, slashes and odd characters in their options, queries of all sorts."""
    text, site = envs
    goals = text.unwrapped.world.goals
    for episode in stock_episodes(False)[::12]:
        goal = goals[episode["goal"]]
        record = {
            **{name: getattr(goal, name) for name in ("asin", "category", "query", "name", "product_category")},
            "instruction_text": goal.instruction,
            "attributes": list(goal.attributes),
            "price_upper": goal.price_upper,
            "goal_options": dict(goal.options),
        }
        same(text.reset(options={"goal": record}), site.reset(options={"goal": record}))
        for step in episode["steps"][1:]:
            played = text.step(step["action"]), site.step(step["action"])
            same(*played, over=played[0][2])


def test_random_actions_play_alike(envs: tuple[Any, Any]) -> None:
    text, site = envs
    rng = random.Random(0)
    for seed in range(3):
        (observation, info), shown = text.reset(seed=seed), site.reset(seed=seed)
        same((observation, info), shown)
        over = False
        for _ in range(20):
            odd = ["click[", "buy", "click[search]", 'search[1/2 <b>inch</b> "é" 🙂]', "search[search_results]", ""]
            actions = [a for a in info["admissible_actions"] if "<your query>" not in a and a != "click[buy now]"]
            action = rng.choice(odd) if rng.random() < 0.3 else rng.choice(actions)
            played = text.step(action), site.step(action)
            over = played[0][2] or played[0][3]
            same(*played, over=played[0][2])
            info = played[0][-1]
            if over:
                break


def test_what_a_product_says_is_shown_and_not_executed(envs: tuple[Any, Any]) -> None:
    _, site = envs
    site.reset(seed=0)
    site.step("search[<img src=x onerror=\"document.title='broken'\">]")
    driver = site.unwrapped.world._shoppers[0].browser.driver
    assert driver.title.startswith("<img src=x")
    assert driver.find_elements("css selector", "main img, script") == []


def test_a_crashed_browser_ends_only_its_own_episode() -> None:
    envs = gym.make_vec(
        "opid/WebShopSite-v0",
        num_envs=2,
        data_dir=FOLDER,
        autoreset_mode=gym.vector.AutoresetMode.DISABLED,
        max_episode_steps=10,
    )
    try:
        envs.reset(seed=0)
        world: WebShopSite = envs.unwrapped.world  # type: ignore[attr-defined]
        browser = world._shoppers[0].browser
        assert browser is not None
        browser.driver.service.process.kill()
        observations, _, terminations, truncations, infos = envs.step(["search[lamp]", "search[lamp]"])
        assert (terminations.tolist(), truncations.tolist()) == ([False, False], [True, False])
        assert infos["crashed"][0]
        assert not infos["_crashed"][1]
        assert "Total results" in observations[1]
        observations, infos = envs.reset(options={"reset_mask": truncations})
        assert observations[0].startswith("WebShop")
        observations, _, _, truncations, _ = envs.step(["search[lamp]", "click[back to search]"])
        assert "Total results" in observations[0]
        assert not truncations.any()
    finally:
        envs.close()


def processes(browser: Browser) -> list[psutil.Process]:
    own = psutil.Process(browser.driver.service.process.pid)
    started = [own, *own.children(recursive=True)]
    assert len(started) > 4, "a guard, a driver, a browser, and what that starts"
    return started


def test_closing_leaves_no_process_and_no_profile_even_if_the_driver_is_gone() -> None:
    browser = Browser()
    started, profile = processes(browser), browser._profile
    for process in started[1:]:
        with suppress(psutil.NoSuchProcess):  # Chromium's own come and go
            process.suspend()  # so that none ends by itself, as on a machine that is too busy for it
    browser.driver.service.process.kill()
    browser.close()
    assert running(started) == []
    assert not profile.exists()
    browser.close()  # again: nothing more to do


@pytest.mark.parametrize("what", ["driver", "browser"])
def test_what_hangs_is_ended_and_called_too_slow_with_what_helps(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = Browser()
    started, profile = processes(browser), browser._profile
    monkeypatch.setattr("opid_gym_envs.webshop.browser.LONGEST_WAIT", 0.5)
    driver = next(process for process in started if process.name() == "chromedriver")
    (chromium,) = driver.children()
    (driver if what == "driver" else chromium).suspend()
    with pytest.raises(BrowserSlowError, match=r"play fewer games at once \(num_envs\)"):
        browser.open("about:blank")
    browser.close()
    assert running(started) == []
    assert not profile.exists()


@pytest.mark.parametrize("end", ["pass", "raise SystemError", "os._exit(5)", "INT", "TERM", "HUP", "KILL"])
def test_nothing_outlives_a_process_that_does_not_close_its_browser(end: str) -> None:
    """However it ends: at the end of the program, by an exception, by `os._exit`, or by a signal."""
    code = f"""
import json, os, sys
from opid_gym_envs.webshop.browser import Browser
browser = Browser()
print(json.dumps([browser._service.process.pid, str(browser._profile)]), flush=True)
input()
{end if not end.isupper() else "input()"}
"""
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:  # a short name, as Chromium's sockets need
        with subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": temporary},
            preexec_fn=hear_signals,
        ) as program:
            assert program.stdin is not None
            assert program.stdout is not None
            guard, profile = json.loads(program.stdout.readline())
            started = [psutil.Process(guard), *psutil.Process(guard).children(recursive=True)]
            assert len(started) > 4
            assert Path(profile).is_dir()
            if end.isupper():
                program.send_signal(signal.Signals[f"SIG{end}"])
            else:
                program.stdin.write(b"\n")
                program.stdin.flush()
            program.wait(SECONDS)
            psutil.wait_procs(started, timeout=SECONDS)
        assert running(started) == []
        assert os.listdir(temporary) == []


def test_where_the_temporary_folder_has_a_long_name_a_browser_starts_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket's name has a limit, and Chromium has one in its temporary folder."""
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)  # asks the variable again
    browser = Browser()
    used = browser._temporary
    try:
        browser.driver.get("about:blank")
        assert list(used.iterdir())
    finally:
        browser.close()
    assert list(folder.iterdir()) == []
    assert not used.exists()


def test_a_browser_that_does_not_start_leaves_nothing() -> None:
    def there() -> tuple[set[Path], set[psutil.Process]]:
        profiles = Path(tempfile.gettempdir()).glob(f"opid-gym-browser-{os.getpid()}-*")
        return set(profiles), set(running(psutil.Process().children()))  # Chromium's own come and go

    before = there()
    with pytest.raises(BrowserCrashError, match="Chromium did not start"):
        Browser(chromium=shutil.which("true"))
    assert there() == before


def test_a_shop_in_a_browser_says_that_it_cannot_be_copied(envs: tuple[Any, Any]) -> None:
    _, site = envs
    for duplicate in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="a shop in a browser cannot be pickled or copied"):
            duplicate(site.unwrapped.world)  # type: ignore[operator]


def test_a_missing_browser_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="chromium='/no/such/program'"):
        gym.make("opid/WebShopSite-v0", chromium="/no/such/program")
