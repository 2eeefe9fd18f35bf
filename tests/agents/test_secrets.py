"""Keys that are planted in the environment are found nowhere: in no file that commands write and nothing they print."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from opid_agents.openai_api import ChatClient

from tests.agents.endpoint import Answer, reply, serve
from tests.agents.models import tiny_recipe
from tests.patience import SECONDS, get

ROOT = Path(__file__).parents[2]
PLANTED = "planted0"
KEYS = {
    "OPENAI_API_KEY": f"sk-{PLANTED}",
    "OPID_GYM_TOKEN": PLANTED,
    "HTTPS_PROXY": f"http://user:{PLANTED}@127.0.0.1:9",
    "WANDB_API_KEY": PLANTED * 5,
    "HF_TOKEN": f"hf_{PLANTED}",
    "WANDB_MODE": "offline",
}


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, **KEYS, **more, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path]))}


def say(*words: str, **more: str) -> str:
    """What a command prints, also when it fails."""
    command = [sys.executable, "-m", "opid_gym.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(**more), timeout=SECONDS)
    return done.stdout + done.stderr


def leaks(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if PLANTED.encode() in path.read_bytes()]


def test_a_benchmark_keeps_no_key_that_its_endpoint_or_a_proxy_got(tmp_path: Path) -> None:
    env = "tests.corridor:tests/Corridor-v0 label=corridor"
    echo = Answer(json.dumps({"error": f"no such key: {KEYS['OPENAI_API_KEY']}"}).encode(), status=401)
    with serve(lambda request, number: echo) as proxy:
        address = proxy.url.replace("//", f"//user:{PLANTED}@").removesuffix("/v1")
        agent = "chat model=m base_url=http://models.invalid/v1"
        words = ["--agent", agent, "--env", env, "--episodes", "1", "--out", str(tmp_path / "bench")]
        said = say("bench", *words, HTTP_PROXY=address)
    said += say("view", str(tmp_path / "bench"), "--no-serve", "--out", str(tmp_path / "page.html"))
    assert (tmp_path / "page.html").is_file(), said
    assert {headers["Authorization"] for headers in proxy.headers} == {f"Bearer {KEYS['OPENAI_API_KEY']}"}
    assert all("Proxy-Authorization" in headers for headers in proxy.headers)
    assert PLANTED not in said
    assert leaks(tmp_path) == []


def test_a_run_sends_its_key_to_the_analyzer_and_keeps_it_nowhere(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    recipe = tmp_path / "recipe.json"
    with serve(lambda request, number: reply(f"no skills, and my key is {KEYS['OPENAI_API_KEY']}")) as endpoint:
        changes = ["algorithm=opid", "iterations=1", "tasks_per_iteration=1", "group_size=2", "warm_start.steps=2"]
        changes += ["evaluation.tasks=1", "train_uniform_groups=true", "skills.extractor=llm", "loggers=wandb"]
        changes += [f"analyzer.base_url={endpoint.url}", "analyzer.api_key_variable=OPENAI_API_KEY"]
        changes += [f"analyzer.cache={tmp_path / 'cache'}"]
        recipe.write_text(tiny_recipe(*changes).model_dump_json())
        said = say("train", "--recipe", str(recipe), "--out", str(tmp_path / "run"))
    assert (tmp_path / "run" / "report.md").is_file(), said
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert {headers["Authorization"] for headers in endpoint.headers} == {f"Bearer {KEYS['OPENAI_API_KEY']}"}
    assert PLANTED not in said
    assert leaks(tmp_path) == []


@pytest.mark.parametrize("words", [["env", "--env", "tests.corridor:tests/Corridor-v0"], ["webshop"]])
def test_a_server_says_nothing_of_its_token(words: list[str]) -> None:
    command = [sys.executable, "-u", "-m", "opid_gym.cli", "serve", *words, "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment()
    ) as server:
        assert server.stdout is not None
        said = server.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert found, said + server.stdout.read()
        refused = get(f"{found[0]}/state", headers={"Authorization": "Bearer guess"}, trust_env=False)
        assert refused.status_code == 401
        answered = get(f"{found[0]}/nowhere", headers={"Authorization": f"Bearer {PLANTED}"}, trust_env=False)
        assert answered.status_code == 404
        server.terminate()
        said += server.stdout.read()
    assert PLANTED not in said + refused.text + answered.text + json.dumps(dict(answered.headers))


@pytest.mark.parametrize("url", ["http://user:{}@localhost/v1", "user:{}@localhost/v1", "http://localhost/v1?{}"])
def test_a_key_in_an_address_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="must not hold a user, a password or a query") as refused:
        ChatClient(url.format(PLANTED), "m")
    assert PLANTED not in str(refused.value)
