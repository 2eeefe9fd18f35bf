"""The page in a real browser, opened as a file: without a network, and without a server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from opid_gym.trajectory import StepHindsight, Trajectory, write_jsonl
from opid_gym.viewer.page import build_page
from opid_gym.viewer.reading import read_folder
from tests.patience import wait_for
from tests.viewer.folders import make_bench, make_run, step, trajectory

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install 'opid-gym[webshop]'")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")), reason="needs chromium and chromedriver"
)

HOSTILE = {
    "script": "</script><script>window.hacked = 1</script>",
    "image": '<img src=x onerror="window.hacked = 2">',
    "comment": "<!-- --><svg onload='window.hacked = 3'>",
    "attribute": '" onmouseover="window.hacked = 4" x=\'',
    "template": "{{index}} ${window.hacked = 5} javascript:window.hacked=6",
    "separators": "a\u2028b\u2029c",
    "surrogate": "half \ud83d of it",
    "nul": "zero\x00one\x1b[31mred",
    "direction": "user\u202enimda",
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update",
        "disable-sync", "no-first-run", f"user-data-dir={profile}", "window-size=1280,860",
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens the page of the given trajectories (of one run, if nothing else is said) at an address."""

    def opened(
        trajectories: list[Trajectory] | None = None,
        *,
        address: str = "",
        folder: Path | None = None,
        width: int = 1280,
    ) -> Any:
        file = tmp_path / "page.html"
        file.write_text(build_page(read_folder(folder or make_run(tmp_path / "mine", trajectories))), encoding="utf-8")
        device = {"width": width, "height": 860, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
        browser.get("about:blank")
        browser.get(f"{file.as_uri()}{address}")
        wait_for(lambda: browser.find_element(By.ID, "main").get_attribute("aria-busy") == "false")
        return browser

    browser.get_log("browser")
    yield opened
    assert browser.get_log("browser") == []  # no error, and nothing that the page's policy had to stop


def all_of(browser: Any, selector: str) -> list[Any]:
    return list(browser.find_elements(By.CSS_SELECTOR, selector))


def texts(browser: Any, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
    found: list[str] = browser.execute_script(script, selector)
    return found


def press(browser: Any, *keys: str) -> None:
    """Type, wherever the focus is."""
    for key in keys:
        webdriver.ActionChains(browser).send_keys(key).perform()


def address(browser: Any) -> str:
    return str(browser.execute_script("return decodeURIComponent(location.hash)"))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_whatever_a_world_says_is_shown_and_not_executed(open_page: Callable[..., Any], text: str) -> None:
    hostile = step(
        0, observation=text, action=text, reply=text, prompt=text, next_observation=text, admissible_actions=(text,),
        valid=False, invalid_reason=text, data={"skills": {"step": text, text: text}},
        hindsight=StepHindsight(False, (text,), better=text, reason=text),
    )  # fmt: skip
    tokens = {"texts": [text], "outcome": [1.0], "skill": [0.5], "log_probs": [-1.0]}
    coloured = step(1, next_observation=text, data={"tokens": tokens})
    episode = trajectory(0, task=text, task_type=text, task_id=text, env_id=text)
    episode.steps = [hostile, coloured]
    page = open_page([episode], address="#trajectory=0")
    wait_for(lambda: len(texts(page, ".step .action")) == 2)
    for summary in all_of(page, "#step-0 .folded > summary"):
        summary.click()
    wait_for(lambda: len(texts(page, "#step-0 .folded > :not(summary)")) == 2)
    visible = {"\u2028": "U+2028", "\u2029": "U+2029", "\ud83d": "U+D83D", "\0": "␀", "\x1b": "␛", "\u202e": "U+202E"}
    expected = "".join(visible.get(character, character) for character in text)
    for place in (
        "#list .task", ".detail h2", ".observation", ".reply", "#step-0 .action code", ".invalid", "#step-0 .skill",
        "#step-0 pre.text", ".admissible li", ".last .text", "#step-1 .token",
        "#step-0 .better code", "#step-0 .reason", "#step-0 .badge.reached",
    ):  # fmt: skip
        shown = texts(page, place)
        assert shown, place
        assert expected in shown[0], place
    page.execute_script("document.querySelector('.token').dispatchEvent(new Event('pointerover', {bubbles: true}))")
    page.find_element(By.ID, "to-overview").click()
    assert expected in " ".join(texts(page, "#overview th"))
    assert page.execute_script("return window.hacked") is None
    assert (
        page.execute_script("return document.querySelectorAll('img, iframe, svg[onload], [onmouseover]').length") == 0
    )
    assert page.execute_script("return document.scripts.length") == 3  # the index, one trajectory, the page's own


def test_names_of_runs_and_files_are_text_too(open_page: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "all" / "<img src=x onerror=window.hacked=1>"
    make_run(folder)
    (folder / "recipe.json").write_text(json.dumps({"algorithm": "<b>x</b>", "seed": "<i>"}))
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 3, "<img src=x onerror=window.hacked=2>": 1.5}\n<script>window.hacked=3</script>\n')
    page = open_page(folder=tmp_path / "all")
    assert "<b>x</b>" in texts(page, "#overview td")
    assert "metrics.jsonl:4" in texts(page, ".notice")[0]
    assert page.execute_script("return window.hacked") is None


def test_the_page_asks_the_network_for_nothing(open_page: Callable[..., Any]) -> None:
    page = open_page(address="#trajectory=0")
    wait_for(lambda: texts(page, ".token"))
    assert page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []


def test_tokens_are_coloured_by_the_chosen_advantage_and_say_their_numbers(open_page: Callable[..., Any]) -> None:
    page = open_page(address="#run=mine&trajectory=1&step=1")
    wait_for(lambda: len(texts(page, "#step-0 .token")) == 3)
    assert texts(page, "#step-0 .piece") == [" go to", " shelf 1", "↵"]
    assert texts(page, "#step-0 .value") == ["−.20", "+.10", "0"]
    assert texts(page, ".legend span")[0] == "≤ −0.2"

    def colours() -> list[str]:
        script = "return [...document.querySelectorAll('#step-0 .piece')].map(e => getComputedStyle(e).backgroundColor)"
        found: list[str] = page.execute_script(script)
        return found

    down, up, none = colours()
    assert len({down, up, none}) == 3
    page.find_element(By.CSS_SELECTOR, "[data-channel=outcome]").click()
    wait_for(lambda: texts(page, "#step-0 .value") == ["+.50"] * 3)
    assert len(set(colours())) == 1
    assert texts(page, ".legend span")[0] == "≤ −0.5"
    assert "colour=outcome" in address(page)
    press(page, "c")
    wait_for(lambda: texts(page, "#step-0 .value") == ["+.30", "+.60", "+.50"])
    press(page, "c")
    wait_for(lambda: texts(page, "#step-0 .value") == ["", "", ""])

    token = all_of(page, "#step-0 .token")[0]
    page.execute_script("arguments[0].focus()", token)
    tip = texts(page, "#tip")[0]
    assert all(part in tip for part in ("skill advantage −0.2", "outcome advantage +0.5", "sum of both +0.3", "50 %"))
    assert "skill advantage −0.2" in token.get_attribute("aria-label")
    press(page, Keys.ARROW_RIGHT)
    assert page.execute_script("return document.activeElement.textContent").startswith(" shelf 1")
    assert "probability 90 %" in texts(page, "#tip")[0]


def test_hindsight_stands_beside_the_step(open_page: Callable[..., Any]) -> None:
    page = open_page(address="#trajectory=0")
    wait_for(lambda: texts(page, "#step-1 .hindsight"))
    assert texts(page, "#step-0 .badge") == ["decisive", "found the mug"]
    assert texts(page, "#step-1 .badge") == ["wasted", "found the mug"]
    assert texts(page, "#step-1 .better code") == ["open drawer 1"]
    assert texts(page, "#step-1 .reason") == ["The drawer had not been opened."]
    assert texts(page, ".detail > .skill")[-1] == "What mattered" + "go to shelf → take mug"


def test_filters_and_search_narrow_the_list_and_live_in_the_address(open_page: Callable[..., Any]) -> None:
    needle = trajectory(2)
    needle.steps[1].prompt = "task: find it\nA golden Zebra sleeps here.\n>"
    page = open_page(
        [trajectory(0), trajectory(1), needle, *(trajectory(i) for i in range(3, 8))], address="#view=trajectories"
    )

    def count() -> str:
        return texts(page, "#count")[0]

    assert count() == "8 of 8 trajectories"
    page.find_element(By.CSS_SELECTOR, "#filter-outcome [value=solved]").click()
    wait_for(lambda: count() == "4 of 8 trajectories")
    page.find_element(By.CSS_SELECTOR, "#filter-iteration [value='1']").click()
    wait_for(lambda: count() == "2 of 8 trajectories")
    press(page, Keys.TAB)
    page.find_element(By.ID, "list").send_keys("/")
    press(page, *"zebra sleeps")
    wait_for(lambda: count() == "1 of 8 trajectories")
    link = address(page)
    assert all(part in link for part in ("outcome=solved", "iteration=1", "zebra"))
    press(page, Keys.ENTER, Keys.ARROW_DOWN)
    wait_for(lambda: "trajectory=2" in address(page))
    wait_for(lambda: len(all_of(page, ".folded > summary")) >= 3)
    all_of(page, ".folded > summary")[2].click()
    wait_for(lambda: "Zebra" in texts(page, "#step-1 pre.text mark"))
    page = open_page([trajectory(0), needle], address="#view=trajectories&q=" + '"golden zebra" shelf')
    wait_for(lambda: count() == "1 of 2 trajectories")
    page.find_element(By.ID, "query").clear()
    page.find_element(By.ID, "query").send_keys("nowhere")
    wait_for(lambda: count() == "0 of 2 trajectories")


def test_keys_walk_through_trajectories_and_steps(open_page: Callable[..., Any]) -> None:
    page = open_page([trajectory(i, steps=40) for i in range(4)])
    page.find_element(By.ID, "main").click()
    press(page, "o", "j")
    wait_for(lambda: "trajectory=0" in address(page))
    press(page, "j", "j", "k")
    wait_for(lambda: "trajectory=1" in address(page))
    assert texts(page, "[aria-selected=true] .task") == ["put mug 0 in shelf"]
    press(page, "l", "l", Keys.ARROW_RIGHT, "h")
    wait_for(lambda: address(page).endswith("step=2"))
    wait_for(lambda: texts(page, ".step.current .number") == ["2"])
    page.back()
    wait_for(lambda: address(page).endswith("step=3"))
    press(page, "?")
    assert "next / previous trajectory" in texts(page, "#help")[0]
    press(page, Keys.ESCAPE)
    wait_for(lambda: page.execute_script("return !document.getElementById('help').open"))
    press(page, Keys.ESCAPE)
    wait_for(lambda: "trajectory=" not in address(page))


def test_a_link_leads_to_a_step_of_a_long_trajectory_of_one_of_many_runs(
    open_page: Callable[..., Any], tmp_path: Path
) -> None:
    make_run(tmp_path / "all" / "grpo", algorithm="grpo")
    make_run(tmp_path / "all" / "opid", [trajectory(0), trajectory(1, steps=400)])
    page = open_page(folder=tmp_path / "all", address="#run=opid&trajectory=1&step=333")
    wait_for(lambda: texts(page, ".step.current .number") == ["333"])
    wait_for(lambda: texts(page, "#step-332 .observation") == ["You arrive at shelf 332."])
    top = page.execute_script("return document.getElementById('step-332').getBoundingClientRect().top")
    assert 0 <= top < 500
    page = open_page(folder=tmp_path / "all", address="#run=opid&trajectory=99")
    assert "no trajectory 99 of run opid" in texts(page, "#detail")[0]


def test_the_overview_has_curves_tables_and_ways_into_the_trajectories(
    open_page: Callable[..., Any], tmp_path: Path
) -> None:
    for algorithm in ("grpo", "opid"):
        make_run(tmp_path / "all" / algorithm, algorithm=algorithm)
    page = open_page(folder=tmp_path / "all")
    assert texts(page, "#overview h2") == ["Runs", "Success by task type", "Curves"]
    chart = wait_for(lambda: all_of(page, ".chart svg"))[0]
    assert len(chart.find_elements(By.CSS_SELECTOR, "path.line")) == 2
    chart.send_keys(Keys.ARROW_LEFT)
    assert texts(page, ".chart .readout")[0] == "grpo 50 % · opid 50 % at 2"
    chart.send_keys(Keys.ENTER)
    wait_for(lambda: texts(page, "#count") == ["8 of 16 trajectories"])  # iteration 2 of both runs
    page.back()
    next(link for link in all_of(page, "table .link") if link.text == "look_at_obj").click()
    wait_for(lambda: "type=look_at_obj" in address(page))
    assert texts(page, "#count") == ["6 of 16 trajectories"]


AGENTS = ("random", "first", "expert", "sb3-ppo", "sb3-recurrent-ppo", "sb3-dqn")


def test_a_benchmark_is_shown_by_world_with_an_agent_in_each_row(open_page: Callable[..., Any], tmp_path: Path) -> None:
    outcomes = {("ALFWorld", agent): "0" * (6 - i) + "1" * i for i, agent in enumerate(AGENTS)}
    outcomes |= {("WebShop", agent): "100000" for agent in AGENTS}
    page = open_page(folder=make_bench(tmp_path / "all", outcomes), width=1400)
    worlds = [f"{env}: generated tasks, not official data" for env in ("ALFWorld", "WebShop")]
    assert texts(page, "#overview h3") == texts(page, "#overview .world") == worlds
    first, second = (texts(page, "#overview .rates tbody th")[i : i + 6] for i in (0, 6))
    assert first == list(reversed(AGENTS))  # the best is on top
    assert sorted(second) == sorted(AGENTS)
    assert "0.917" in texts(page, "#overview td")  # the mean return of the best: five solved tasks and one half
    for scroll in all_of(page, "#overview .scroll"):
        assert page.execute_script("return arguments[0].scrollWidth <= arguments[0].clientWidth", scroll)


def test_a_figure_of_the_overview_is_saved_as_svg(open_page: Callable[..., Any], tmp_path: Path) -> None:
    outcomes = {("ALFWorld", agent): "0011" for agent in ("expert", "<b>random</b>")}
    page = open_page(folder=make_bench(tmp_path / "all", outcomes))
    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.find_element(By.CSS_SELECTOR, ".panel > .save").click()
    file = tmp_path / "success.svg"
    wait_for(file.is_file)
    picture = ElementTree.parse(file).getroot()
    words = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"ALFWorld: generated tasks, not official data", "expert", "<b>random</b>", "50.0 %"} <= set(words)


def test_a_curve_is_saved_as_svg_with_its_colours(open_page: Callable[..., Any], tmp_path: Path) -> None:
    page = open_page()
    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    save = wait_for(lambda: all_of(page, ".chart .save"))[0]
    page.execute_script("arguments[0].click()", save)
    file = tmp_path / "success.svg"
    wait_for(file.is_file)
    lines = list(ElementTree.parse(file).getroot().iter("{http://www.w3.org/2000/svg}path"))
    assert len(lines) == 1
    assert lines[0].get("fill") == "none"
    assert lines[0].get("stroke").startswith("rgb(")


def test_a_run_is_found_by_the_name_of_its_file(open_page: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "all" / "later").mkdir(parents=True)
    for name in ("random", "later/expert"):
        write_jsonl(tmp_path / "all" / f"{name}.jsonl", [trajectory(0), trajectory(1)])
    for address in ("random.jsonl", "expert", "later/expert.jsonl"):
        page = open_page(folder=tmp_path / "all", address=f"#run={address}&trajectory=1&step=2")
        wait_for(lambda: texts(page, ".step.current .number") == ["2"])  # noqa: B023


def test_a_trajectory_without_advantages_says_why(open_page: Callable[..., Any]) -> None:
    def told(episodes: list[Trajectory]) -> str:
        page = open_page(episodes, address="#trajectory=0")
        return str(wait_for(lambda: texts(page, ".detail > p.note"))[-1])

    pair = [trajectory(number, steps=1) for number in (0, 1)]
    for episode in pair:
        episode.steps[0].data.clear()
    assert "all 2 rollouts of this task shown here have the same return" in told(pair)
    pair[1].steps[0].reward = 1.0
    assert "its group was not trained" in told(pair)
    pair[0].metadata.clear()
    assert "only training gives advantages" in told(pair)


def test_very_long_texts_are_cut_until_somebody_wants_them(open_page: Callable[..., Any]) -> None:
    long = trajectory(0)
    long.steps = [step(0, observation="word " * 400_000, prompt="x" * 2_000_000)]
    page = open_page([long], address="#trajectory=0")
    more = wait_for(lambda: all_of(page, ".observation .more"))[0]
    assert more.text == "Show all 2,000,000 characters"
    assert len(texts(page, ".observation")[0]) < 20_000
    more.click()
    assert len(texts(page, ".observation")[0]) == 2_000_000


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(open_page: Callable[..., Any], width: int) -> None:
    for where in ("", "#view=trajectories", "#trajectory=0"):
        page = open_page(address=where, width=width)
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    if width == 390:
        page.find_element(By.CSS_SELECTOR, ".back").click()
        wait_for(lambda: page.find_element(By.ID, "list").is_displayed())
        assert not page.find_element(By.ID, "detail").is_displayed()


# WCAG 2 contrast of an element's text on the colours behind it, read from rendered pixels' colours.
CONTRAST = """
const paint = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgb = colour => { paint.clearRect(0, 0, 1, 1); paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1);
  return [...paint.getImageData(0, 0, 1, 1).data]; };
const background = element => { for (let e = element; e; e = e.parentElement) {
  const colour = rgb(getComputedStyle(e).backgroundColor); if (colour[3] === 255) return colour; } };
const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
return [...document.querySelectorAll(arguments[0])].map(element => {
  const [a, b] = [rgb(getComputedStyle(element).color), background(element)].map(light).sort((x, y) => y - x);
  return [element.className, (a + .05) / (b + .05)];
});
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_readable_on_its_colour_in_both_themes(open_page: Callable[..., Any], theme: str) -> None:
    page = open_page(address="#trajectory=1")
    wait_for(lambda: texts(page, "#step-0 .token"))
    while page.execute_script("return document.documentElement.dataset.theme") != theme:
        press(page, "t")
    wait_for(lambda: page.execute_script("return document.getAnimations().length === 0"))  # colours change slowly
    selector = ".piece, .value, .note, .notes, .task, .facts dt, .skill-name, .mark, .number, .switch button, .count, "
    selector += ".hindsight-name, .reason, .badge, .better code"
    poor = [(name, ratio) for name, ratio in page.execute_script(CONTRAST, selector) if ratio < 4.5]
    assert not poor
    assert page.execute_script("return getComputedStyle(document.documentElement).colorScheme") == theme
