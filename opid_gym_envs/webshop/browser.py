"""`opid/WebShopSite-v0`: the shop's site, used through Chromium as a person would use it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from opid_gym.guard import guarded
from opid_gym.named import missing_extra
from opid_gym.world import Task, Turn
from opid_gym_envs.webshop.env import Visit, WebShop, make_turn
from opid_gym_envs.webshop.goals import Goal
from opid_gym_envs.webshop.pages import SEARCH, PageKind, join_texts
from opid_gym_envs.webshop.session import read_action
from opid_gym_envs.webshop.site import SiteServer, Visits, create_app

try:
    import psutil
    from selenium import webdriver
    from selenium.common.exceptions import (
        InvalidSessionIdException,
        NoSuchWindowException,
        TimeoutException,
        WebDriverException,
    )
    from selenium.webdriver.remote.webelement import WebElement
    from selenium.webdriver.support.ui import WebDriverWait
except ModuleNotFoundError as error:
    raise missing_extra("driving a browser", error.name or "selenium", "webshop") from None

_CRASH_FOLDER = "BREAKPAD_DUMP_LOCATION"
"""The variable that tells Chromium where to keep the reports of its crashes."""

LONGEST_WAIT = 60.0
"""Seconds that a page may take, and half of what an action may; then the browser is given up as too slow."""

TOO_SLOW = (
    f"the browser did not answer within {LONGEST_WAIT:.0f} seconds: this machine is too busy or too slow for so many "
    "browsers; play fewer games at once (num_envs), or end other programs"
)

_KILLED_WAIT = 60.0
"""Seconds until a process that was killed is given up, as one that waits for a broken disk."""

_LONGEST_TEMPORARY = 60
"""Bytes of the name of a folder in which Chromium can have a socket, without which it does not start: the name of a
socket has at most 107."""

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions", "--mute-audio"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no request leaves the machine
    "--window-size=1280,900",
)

# Sorted by data-piece the pieces stand in the order of text mode (see site/templates/pieces.html).
_LOOK = """
const all = (selector) => [...document.querySelectorAll(selector)];
const pieces = all("[data-piece]").sort((a, b) => a.dataset.piece - b.dataset.piece);
const clickable = (kind) => all(`[data-click="${kind}"]`)
  .sort((a, b) => a.dataset.piece - b.dataset.piece).map((e) => e.textContent);
return {
  kind: document.body.dataset.page,
  pieces: pieces.map((e) => e.textContent),
  clickables: [...clickable("button"), ...clickable("link"), ...clickable("option")],
};
"""
# One text, several things: a button goes before a product and a product before an option; of options, the last counts.
_FIND = """
const [text] = arguments;
const named = (kind) => [...document.querySelectorAll(`[data-click="${kind}"]`)]
  .filter((e) => (kind === "option" ? e.textContent : e.textContent.toLowerCase()) === text);
const found = named("button")[0] ?? named("link")[0] ?? named("option").at(-1) ?? null;
window.departing = found !== null;
return found;
"""
_TYPE = """
const field = document.querySelector("#q");
field.value = arguments[0];
window.departing = true;
return field.form.querySelector("button");
"""
_ARRIVED = "return !window.departing && document.readyState === 'complete';"


@dataclass(frozen=True, slots=True)
class Look:
    """What a browser shows: the kind of page, its visible texts, and what can be clicked, lower-cased."""

    kind: str
    text: str
    clickables: tuple[str, ...]


class BrowserError(RuntimeError):
    """An action could not be done in a browser."""


class BrowserCrashError(BrowserError):
    """A browser is gone."""


class BrowserSlowError(BrowserError):
    """A browser works, or hangs, and did not answer in time."""


class _GuardedService(webdriver.ChromeService):
    """The driver's process under a guard, which ends with this process and takes the browser and its folders along."""

    def __init__(self, chromedriver: str, profile: Path, temporary: Path) -> None:
        self._program, *self._arguments = guarded([chromedriver], remove=[str(profile), str(temporary)])
        super().__init__(
            executable_path=self._program,
            # Without them, crashes are kept in the user's home, and a browser that is killed leaves temporary folders.
            env={**os.environ, _CRASH_FOLDER: str(profile), "TMPDIR": str(temporary)},
            popen_kw={"start_new_session": True},
        )

    def command_line_args(self) -> list[str]:
        """What follows the program."""
        return [*self._arguments, *super().command_line_args()]

    def send_remote_shutdown_command(self) -> None:
        """Nothing: the guard ends the driver, and Selenium would look only once a second whether it has ended."""

    def end(self) -> None:
        """End the driver, the browser and everything that they started; the profile goes too."""
        process = getattr(self, "process", None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(LONGEST_WAIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Browser:
    """One headless Chromium with a fresh profile, which is deleted when it is closed.

    It also goes, with its profile, when this process ends without closing it, in whatever way (see `opid_gym.guard`).

    Args:
        chromium, chromedriver: the programs; None: found on the ``PATH``.

    Raises:
        FileNotFoundError: a program is not there.
        BrowserCrashError: it did not start.
    """

    def __init__(self, chromium: str | None = None, chromedriver: str | None = None) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = find_program("chromium", chromium)
        driver = find_program("chromedriver", chromedriver)
        prefix = f"opid-gym-browser-{os.getpid()}-"
        self._profile = self._temporary = Path(tempfile.mkdtemp(prefix=prefix))
        if os.name == "posix" and len(os.fsencode(self._profile)) > _LONGEST_TEMPORARY:
            self._temporary = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
        for flag in (*_FLAGS, f"--user-data-dir={self._profile}"):
            options.add_argument(flag)
        self._service = _GuardedService(driver, self._profile, self._temporary)
        try:
            self.driver = webdriver.Chrome(options=options, service=self._service)
            self.driver.set_page_load_timeout(LONGEST_WAIT)
            self.driver.set_script_timeout(LONGEST_WAIT)
        except BaseException as error:
            self._kill()
            self._remove_folders()
            if isinstance(error, Exception):
                raise BrowserCrashError(f"Chromium did not start: {getattr(error, 'msg', error)}") from error
            raise

    def open(self, url: str) -> Look:
        """Go to an address."""
        return self._guarded(lambda: self.driver.get(url))

    def search(self, query: str) -> Look:
        """Type into the search field and press its button."""
        # Not by keystrokes: the driver types no characters beyond the BMP, and 100 kB for minutes.
        return self._guarded(lambda: self._follow(self.driver.execute_script(_TYPE, query)))

    def click(self, text: str) -> Look | None:
        """Click what has this text; None if there is no such thing."""
        found: list[bool] = []

        def go() -> None:
            element = self.driver.execute_script(_FIND, text)
            if element is not None:
                found.append(True)
                self._follow(element)

        look = self._guarded(go)
        return look if found else None

    def close(self) -> None:
        """End it and every process it started, also if it, or its driver, crashed or hangs."""
        with self._limited():
            self.driver.quit()  # raises nothing
        self._kill()  # what a driver that is gone has left behind
        self._remove_folders()

    def _remove_folders(self) -> None:
        for folder in (self._profile, self._temporary):
            shutil.rmtree(folder, ignore_errors=True)

    def _follow(self, element: WebElement) -> None:
        element.click()
        WebDriverWait(self.driver, LONGEST_WAIT, poll_frequency=0.01).until(lambda driver: self._has_arrived())

    def _has_arrived(self) -> bool:
        try:
            return bool(self.driver.execute_script(_ARRIVED))
        except (InvalidSessionIdException, NoSuchWindowException):
            raise
        except WebDriverException:
            return False  # asked in the middle of the change from one page to the next

    @contextmanager
    def _limited(self) -> Iterator[threading.Event]:
        """Kill the browser if this takes too long, which sets the event: callers that wait are told that it is gone."""
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._kill()

        timer = threading.Timer(2 * LONGEST_WAIT, give_up)
        timer.start()
        try:
            yield late
        finally:
            timer.cancel()

    def _kill(self) -> None:
        self._service.end()
        _end_all_of(self._profile)  # still there if the guard itself was killed

    def _guarded(self, deed: Callable[[], None]) -> Look:
        late = threading.Event()
        try:
            with self._limited() as late:
                deed()
                seen = self.driver.execute_script(_LOOK)
        # Selenium's errors, and those of urllib3 when the driver itself is gone.
        except Exception as error:
            if late.is_set() or isinstance(error, TimeoutException):
                raise BrowserSlowError(TOO_SLOW) from error
            raise BrowserCrashError(str(error).partition("\n")[0]) from error
        clickables = dict.fromkeys(text.lower() for text in seen["clickables"])
        return Look(seen["kind"], join_texts(seen["pieces"]), tuple(clickables))


def _end_all_of(profile: Path) -> None:
    """End every process of the browser with this profile, whoever is its parent now, and wait until they are gone."""
    deadline = time.monotonic() + _KILLED_WAIT
    while left := [process for process in psutil.process_iter() if _belongs_to(process, profile)]:
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)


def _belongs_to(process: psutil.Process, profile: Path) -> bool:
    # Chromium's processes name the profile in their arguments; the driver and what reports crashes, which leaves its
    # parent and its session, inherit the variable. Of the dead, who may stay as zombies, neither can be read.
    try:
        return f"--user-data-dir={profile}" in process.cmdline() or (
            process.environ().get(_CRASH_FOLDER) == str(profile)
        )
    except (psutil.Error, OSError):
        return False


def find_program(name: str, path: str | None = None) -> str:
    """Where a program is.

    Raises:
        FileNotFoundError: it is not there; the message says how to get it.
    """
    found = shutil.which(path or name)
    if found is None:
        raise FileNotFoundError(
            f"{name}={path!r} is no program"
            if path
            else f"no {name} on the PATH; Debian and Ubuntu have it in the "
            f"packages chromium and chromium-driver, and {name}=PATH names one elsewhere"
        )
    return found


class WebShopSite(WebShop):
    """The shop of `opid_gym_envs.webshop.env.WebShop` behind a real browser: one headless Chromium a game.

    Actions, admissible actions, rewards and observations are those of the text environment in mode ``text``, read off
    the page; only the last page tells more than stock's. The site is served from this process, and nothing is asked of
    any other machine. The browsers of a batch work side by side, start when they are first needed and serve one
    episode after another. If one crashes, or does not answer in time, its episode is truncated, with the reason in
    ``info["crashed"]`` or ``info["too_slow"]``, and the next episode has a new one.

    Args:
        data_dir, goals, split, num_products, prices, search: see `WebShop`.
        chromium, chromedriver: the programs; None: found on the ``PATH``.

    Raises:
        FileNotFoundError: a program, folder or file is not there.
        ValueError: see `WebShop`.
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
        goals: str = "synthetic",
        split: str | None = None,
        num_products: int | None = None,
        prices: Mapping[str, float] | str | Path | None = None,
        search: str = "native",
        chromium: str | None = None,
        chromedriver: str | None = None,
    ) -> None:
        self._programs = find_program("chromium", chromium), find_program("chromedriver", chromedriver)
        super().__init__(data_dir, goals, split, num_products, prices, search=search)
        self._open_visits = Visits(self)
        self._server = SiteServer(create_app(self._open_visits))
        self._workers = ThreadPoolExecutor(max_workers=64, thread_name_prefix="webshop-browser")
        self._shoppers: dict[int, _Shopper] = {}

    def start(self, slots: Sequence[int], task_ids: Sequence[str]) -> list[tuple[Task, Turn]]:
        """See `World.start`.

        Raises:
            BrowserError: a browser crashes or is too slow on the first page, and so is a new one.
        """
        goals = [self._goal(task_id) for task_id in task_ids]
        shoppers = [self._shoppers.setdefault(slot, _Shopper()) for slot in slots]
        turns = self._workers.map(self._begin, shoppers, goals)
        begun = []
        for slot, task_id, shopper, turn in zip(slots, task_ids, shoppers, turns, strict=True):
            self._visits[slot] = shopper.visit
            begun.append((shopper.visit.task(task_id), turn))
        return begun

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Turn]:
        """See `World.step`."""
        return list(self._workers.map(self._play, [self._shoppers[slot] for slot in slots], actions))

    def close(self) -> None:
        """End the browsers and the site."""
        list(self._workers.map(_Shopper.leave, self._shoppers.values()))
        self._shoppers.clear()
        self._workers.shutdown()
        self._server.close()
        super().close()

    def __getstate__(self) -> NoReturn:
        raise TypeError("a shop in a browser cannot be pickled or copied: make another one with the same arguments")

    def _begin(self, shopper: _Shopper, goal: Goal) -> Turn:
        self._open_visits.end(shopper.name)
        shopper.name, shopper.visit = self._open_visits.begin(goal)
        url = f"{self._server.url}/visit/{shopper.name}"
        if shopper.browser is not None:
            try:
                return shopper.see(shopper.browser.open(url))
            except BrowserError:
                shopper.leave()
        shopper.browser = Browser(*self._programs)
        return shopper.see(shopper.browser.open(url))

    def _play(self, shopper: _Shopper, action: str) -> Turn:
        try:
            return shopper.see(shopper.act(action) or shopper.look)
        except BrowserError as error:
            shopper.leave()
            turn = shopper.see(shopper.look)
            why = "too_slow" if isinstance(error, BrowserSlowError) else "crashed"
            return replace(turn, truncated=True, extras={**turn.extras, why: str(error)})


class _Shopper:
    """A game: a browser on a visit, and what it showed last."""

    name: str
    visit: Visit
    look: Look

    def __init__(self) -> None:
        self.name = ""
        self.browser: Browser | None = None

    def see(self, look: Look) -> Turn:
        self.look = look
        return make_turn(self.visit, PageKind(look.kind), look.text, look.clickables)

    def act(self, action: str) -> Look | None:
        """Do what an action says; None if it means nothing here."""
        if self.browser is None:
            raise BrowserCrashError("it crashed before")
        name, argument = read_action(action)
        if name == "search" and argument:
            return self.browser.search(argument)
        if name == "click" and argument and argument.lower() != SEARCH.lower():
            return self.browser.click(argument.lower())
        return None

    def leave(self) -> None:
        if self.browser is not None:
            self.browser.close()
            self.browser = None
