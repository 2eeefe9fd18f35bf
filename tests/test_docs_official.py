"""The page "Official data", typed as it stands, on small folders of the same names and forms."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import pyarrow
from pyarrow import parquet

from opid_gym_envs.alfworld.export import export_game
from opid_gym_envs.alfworld.generator import GeneratedSplit
from opid_gym_envs.webshop import Catalogue
from opid_gym_envs.webshop.goals import Goals
from tests.searchqa.servers import PLACES, TOPICS, corpus
from tests.walks import ROOT, commands, walk
from tests.webshop.stock_data import FOLDER

PAGE = "worlds/official.md"
PYTHON = re.compile(r"^```py\n(.*?)^```", re.DOTALL | re.MULTILINE)
GAMES = 7


def alfworld_data(folder: Path) -> Path:
    for problem in GeneratedSplit("valid_unseen", size="small", count=GAMES):
        export_game(problem, folder / "made")
    shutil.move(folder / "made" / "small" / "valid_unseen", folder / "json_2.1.1" / "valid_unseen")
    return folder


def search_data(folder: Path) -> None:
    """As Search-R1 publishes it: a gzipped corpus, and Parquet files of questions."""
    rows = [{"id": str(number), "contents": passage.contents} for number, passage in enumerate(corpus())]
    (folder / "nq_hotpotqa_train").mkdir(parents=True)
    (folder / "wiki-18.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    questions = [
        {
            "id": f"test_{number}",
            "question": f"Where is the {topic} well known?",
            "golden_answers": PLACES,
            "data_source": "bamboogle",
            "prompt": [{"role": "user", "content": f"Answer. Question: Where is the {topic} well known?\n"}],
            "reward_model": {"style": "rule", "ground_truth": {"target": PLACES}},
            "extra_info": {"split": "test", "index": number},
        }
        for number, topic in enumerate(TOPICS * 13)
    ]
    for name, count in (("train", 10), ("test", 125)):
        parquet.write_table(
            pyarrow.Table.from_pylist(questions[:count]), folder / "nq_hotpotqa_train" / f"{name}.parquet"
        )


def test_the_page_works_as_typed(tmp_path: Path) -> None:
    search_data(tmp_path / "search-data")
    shutil.copytree(FOLDER, tmp_path / "WebShop" / "data")
    data = alfworld_data(tmp_path / "alfworld-data")
    typed = [command for command in commands(PAGE) if "e5" not in command]  # needs a model and 65 GB of vectors
    with walk(tmp_path, {"ALFWORLD_DATA": str(data)}) as terminal:
        said = {command: " ".join(terminal.type(command).split()) for command in typed}
        [code] = PYTHON.findall((ROOT / "docs" / PAGE).read_text(encoding="utf-8"))
        (tmp_path / "which.py").write_text(code)
        which = terminal.type("python which.py")

    def of(*words: str) -> str:
        [found] = [text for command, text in said.items() if all(word in command for word in words)]
        return found

    assert which.splitlines()[0] == f"official {data / 'json_2.1.1'} {GAMES}"
    assert f"all {GAMES} 100.0%" in of("eval --agent expert")
    assert "all 125" in of("eval", "retriever=")
    goals = len(Goals(Catalogue.load(FOLDER, "full"), "human").split("test"))
    assert f"all {goals} " in of("eval", "goals=human")
    assert f"official games; test {GAMES} hash" in of("panel households-official.json --make")
    assert f"official games; test {goals} hash" in of("panel shop-official.json")
    assert "official games; test 100 hash" in of("panel questions-official.json")
    assert f"{GAMES} of {GAMES} transcripts agree" in of("--verify")
    report = json.loads(of("--panel"))
    assert (report["source"], report["episodes"]) == ("official", GAMES)
    assert report["panel_hash"] in of("panel households-official.json --make")
