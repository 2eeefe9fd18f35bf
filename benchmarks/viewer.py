"""How long the viewer takes to open a run, and whether it stays responsive, in a real browser.

    python benchmarks/viewer.py --json

A run is made of real-size household games, played at random with the long prompts for instruction-tuned models and
replies of some 30 tokens with made-up advantages; every step has its prompt, reply, tokens and admissible actions.
Headless Chromium opens the page as a file and is measured from inside: a page counts as open at the second frame
after its list and its first view can be used. *Frames* are the gaps between animation frames while the page is
scrolled, one frame of 60 a second being 16.7 ms. Figures are medians over fresh starts of the page.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import which
from statistics import median
from typing import Any

import numpy as np
from rich.progress import track
from rich.table import Table
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from opid_gym.agent import Decision
from opid_gym.console import out
from opid_gym.console import talk as progress
from opid_gym.prompting import PromptView, load_template, render
from opid_gym.registration import make_envs
from opid_gym.rollout import play
from opid_gym.trajectory import write_jsonl
from opid_gym.viewer.page import build_page
from opid_gym.viewer.reading import read_folder

STEPS_PER_EPISODE = 20
GROUP = 8


def main() -> None:
    """Measure the viewer on a generated run and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000, help="steps in the run")
    parser.add_argument("--repeats", type=int, default=5, help="how often the page is opened")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), arguments.steps, arguments.repeats)
    if arguments.json:
        print(json.dumps(figures))
        return
    table = Table("what", "", title=f"The viewer on a run of {arguments.steps:,} steps", box=None)
    for name, value in figures.items():
        table.add_row(name, f"{value:,}" if isinstance(value, (int, float)) else str(value))
    out.print(table)


def measure(folder: Path, steps: int, repeats: int) -> dict[str, Any]:
    """All figures, on a run made in `folder`."""
    run, page = folder / "run", folder / "page.html"
    made = make_run(run, steps)
    started = time.process_time()
    content = build_page(read_folder(run))
    build = time.process_time() - started
    command = [sys.executable, "-m", "opid_gym.cli", "view", str(run), "--no-serve", "--out", str(page)]
    walls, used = [], []
    for _ in range(repeats):
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        walls.append(time.perf_counter() - started)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    with Browser(folder / "profile") as browser:
        opened = [browser.measure(page) for _ in track(range(repeats), "opening", console=progress)]
        version = browser.driver.capabilities["browserVersion"]
    return {
        "machine": f"{platform.machine()}, Python {platform.python_version()}, Chromium {version}",
        **made,
        "page_mb": round(len(content) / 1e6, 2),
        "read_and_build_cpu_s": round(build, 3),
        "command_cpu_s": round(median(used), 3),
        "command_wall_s": round(median(walls), 3),
        **{name: round(median(each[name] for each in opened), 1) for name in opened[0]},
    }


# -- The run --
def make_run(folder: Path, steps: int) -> dict[str, Any]:
    """Write a run of `steps` steps; returns what it holds."""
    folder.mkdir()
    episodes = -(-steps // STEPS_PER_EPISODE)
    envs = make_envs("opid/ALFWorld-v0", min(64, episodes), max_episode_steps=STEPS_PER_EPISODE)
    tasks = list(envs.world.task_ids)
    chosen = [tasks[i // GROUP % len(tasks)] for i in range(episodes)]
    trajectories = []
    for trajectory in track(play(envs, Talker(envs.num_envs), chosen), "playing", episodes, console=progress):
        trajectory.group = trajectory.metadata["index"] // GROUP
        trajectory.metadata["iteration"] = 1 + trajectory.group // 8
        trajectory.success = trajectory.metadata["index"] % 3 == 0
        trajectories.append(trajectory)
    envs.close()
    write_jsonl(folder / "trajectories.jsonl", sorted(trajectories, key=lambda t: t.metadata["index"]))
    last = trajectories[-1].metadata["iteration"]
    with open(folder / "metrics.jsonl", "w") as file:
        for i in range(1, last + 1):
            metrics = {
                "iteration": i,
                **{f"train/figure_{k}": 1 / (i + k) for k in range(40)},
                "success": i / (last + 1),
            }
            file.write(json.dumps(metrics) + "\n")
    return {
        "steps": sum(map(len, trajectories)),
        "episodes": len(trajectories),
        "tokens": sum(len(s.data["tokens"]["texts"]) for t in trajectories for s in t.steps),
        "folder_mb": round(sum(file.stat().st_size for file in folder.iterdir()) / 1e6, 1),
    }


class Talker:
    """Acts at random and says why."""

    def __init__(self, num_envs: int) -> None:
        self._rng = random.Random(0)
        self._template = load_template("tagged")
        self._histories: list[list[tuple[str, str]]] = [[] for _ in range(num_envs)]

    def reset(self, mask: Any) -> None:
        """Forget the games of `mask`."""
        for game in np.flatnonzero(mask):
            self._histories[game] = []

    def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> list[Decision]:
        """A random action for each game, with everything a learner would keep."""
        return [
            self._decide(i, observation, infos) if infos["_task"][i] else Decision("")
            for i, observation in enumerate(observations)
        ]

    def _decide(self, game: int, observation: str, infos: Mapping[str, Any]) -> Decision:
        rng, history = self._rng, self._histories[game]
        admissible = infos["admissible_actions"][game]
        action = rng.choice(admissible)
        prompt = str(render(self._template, PromptView(infos["task"][game], observation, history, admissible)))
        history.append((observation, action))
        seen = " ".join(rng.sample(observation.split(), min(12, len(observation.split()))))
        reply = f"<think>I see {seen}, so I try this next.</think>\n<action>{action}</action>"
        texts = re.findall(r"\s?\w+|\s?[^\w\s]+|\s", reply)
        outcome = round(rng.gauss(0, 1), 4)
        tokens = {
            "texts": texts,
            "log_probs": [round(-rng.expovariate(1), 4) for _ in texts],
            "outcome": [outcome] * len(texts),
            "skill": [float(f"{rng.gauss(0, 0.1):.4g}") for _ in texts],
        }
        return Decision(action, reply, prompt, data={"tokens": tokens, "skills": {"episode": f"try {action}"}})


# -- The browser --
class Browser:
    """Headless Chromium with a fresh profile."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = which("chromium") or ""
        for argument in (
            "headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update",
            "disable-sync", "no-first-run", "window-size=1280,860", f"user-data-dir={profile}",
        ):  # fmt: skip
            options.add_argument(f"--{argument}")
        self.driver = webdriver.Chrome(options=options, service=Service(which("chromedriver") or ""))
        self.driver.set_script_timeout(120)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: object) -> None:
        self.driver.quit()

    def measure(self, page: Path) -> dict[str, float]:
        """Open the page once and use it; milliseconds."""
        self.driver.get("about:blank")
        self.driver.get(f"{page.as_uri()}#view=trajectories")
        found: dict[str, float] = self.driver.execute_async_script(MEASURE)
        return found


MEASURE = """
const done = arguments[0];
const frame = () => new Promise(resolve => requestAnimationFrame(resolve));
const painted = async () => { await frame(); await frame(); return performance.now(); };
const until = async condition => { while (!condition()) await frame(); return painted(); };
const $ = id => document.getElementById(id);
const median = values => values.toSorted((a, b) => a - b)[values.length >> 1];
const quantile = (values, q) => values.toSorted((a, b) => a - b)[Math.floor(q * values.length)];
const press = key => document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
const gapsWhile = async work => {
  const gaps = []; let on = true, last = performance.now();
  (async () => { while (on) { const now = await frame(); gaps.push(now - last); last = now; } })();
  await work(); on = false; return gaps;
};
(async () => {
  const found = {};
  await until(() => $('main').getAttribute('aria-busy') === 'false');
  found.open_ms = performance.getEntriesByName('opid-gym-open')[0].startTime;
  const list = $('list');
  let gaps = await gapsWhile(async () => {
    for (let i = 1; i <= 90; i++) { list.scrollTop = list.scrollHeight * i / 90; await frame(); }
  });
  found.list_scroll_frame_ms = median(gaps);
  found.list_scroll_worst_frame_ms = Math.max(...gaps);
  const chosen = [];
  for (let i = 0; i < 30; i++) {
    const started = performance.now();
    press('j');
    const step = document.querySelector('#step-0');
    await until(() => document.querySelector('#step-0') !== step && document.querySelector('#step-0 .token'));
    chosen.push(performance.now() - started);
  }
  found.choose_trajectory_ms = median(chosen);
  found.choose_trajectory_p95_ms = quantile(chosen, .95);
  const detail = $('detail');
  gaps = await gapsWhile(async () => { for (let i = 0; i < 90; i++) { detail.scrollTop += 60; await frame(); } });
  found.detail_scroll_frame_ms = median(gaps);
  found.detail_scroll_worst_frame_ms = Math.max(...gaps);
  let started = performance.now();
  press('c');
  found.recolour_ms = await painted() - started;
  press('Escape');
  started = performance.now();
  $('filter-outcome').value = 'solved';
  $('filter-outcome').dispatchEvent(new Event('change', {bubbles: true}));
  found.filter_ms = await painted() - started;
  const ask = async text => {
    const before = performance.now();
    $('query').value = text;
    $('query').dispatchEvent(new Event('input', {bubbles: true}));
    await frame();
    return await until(() => !$('count').textContent.includes('so far') && $('count').textContent !== last) - before;
  };
  $('filter-outcome').value = '';
  $('filter-outcome').dispatchEvent(new Event('change', {bubbles: true}));
  let last = $('count').textContent;
  gaps = await gapsWhile(async () => { found.first_search_ms = await ask('desklamp shelf'); });
  found.first_search_worst_frame_ms = Math.max(...gaps);
  last = $('count').textContent;
  found.later_search_ms = await ask('"go to fridge 1" tomato');
  found.heap_mb = performance.memory.usedJSHeapSize / 1e6;
  done(found);
})();
"""


if __name__ == "__main__":
    main()
