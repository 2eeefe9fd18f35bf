"""Commands that write, in their smallest form, for `benchmarks/crashes.py` and `benchmarks/power_cuts.py`.

A subject acts in a folder, which takes less than three CPU-seconds, and says what came of it. The result of training is
every number of every iteration, the trajectories, both evaluations and all bytes of the model.

Another subject is a `Subject` in `SUBJECTS`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.copies import ROOT, in_copy
from opid_gym.bench.harness import Plan, run
from opid_gym.bench.results import read_results
from opid_gym.files import write_file
from opid_gym.interop.export import read_parquet, write_parquet
from opid_gym.roster import parse_spec
from opid_gym.trajectory import Step, Trajectory, read_jsonl, write_jsonl
from opid_gym.viewer.command import write_page
from opid_gym_envs.searchqa.corpus import Passage
from opid_gym_envs.searchqa.retrievers import build_index, open_index
from opid_gym_envs.webshop.catalogue import Catalogue


@dataclass(frozen=True)
class Subject:
    """A command that writes.

    Attributes:
        act: writes below a folder; called again after a kill.
        result: what it has written there, to be compared.
        needs: a module that is loaded once, before the process is copied.
        refuses: what is half written is refused by `result`, rather than read as far as it goes.
        forces: a folder below which a library writes and forces its own files to the disk, without Python.
        warms: it acts once before the process is copied, because its library compiles itself then.
    """

    act: Callable[[Path], object]
    result: Callable[[Path], Any]
    needs: str = "opid_gym"
    refuses: bool = False
    forces: str | None = None
    warms: bool = False

    def load(self) -> None:
        """Load what it needs."""
        importlib.import_module(self.needs)
        if self.warms:
            with tempfile.TemporaryDirectory() as folder:
                self.act(Path(folder))
                self.result(Path(folder))


def _bench(folder: Path) -> None:
    env = parse_spec("tests.corridor:tests/Corridor-v0 max_episode_steps=4 label=corridor")
    run(Plan((parse_spec("expert"), parse_spec("random")), (env,), num_envs=2), folder / "bench", workers=2)


def _bench_result(folder: Path) -> Any:
    results = read_results(folder / "bench" / "episodes.jsonl")
    files = sorted((folder / "bench" / "trajectories").glob("*.jsonl"))
    played = Counter((file.name, t.task_id) for file in files for t in read_jsonl(file))
    return sorted((*r.key, r.success, r.length, played[f"{r.agent}-corridor-0.jsonl", r.task_id]) for r in results)


def _corpus() -> list[Passage]:
    return [Passage(str(n), f"Item {n}", f"number{n} of a long list, colour{n % 7}") for n in range(300)]


def _index(engine: str, **settings: Any) -> Subject:
    def result(folder: Path) -> Any:
        found = open_index(folder / "index").search([f"number{n}" for n in range(0, 300, 30)], 1)
        return [[hit.id for hit in hits] for hits in found]

    return Subject(lambda folder: build_index(_corpus(), folder / "index", engine), result, refuses=True, **settings)


def _catalogue(folder: Path) -> Catalogue:
    return Catalogue.generated(50, cache_dir=folder, progress=False)


def _catalogue_result(folder: Path) -> Any:
    shop = _catalogue(folder)
    return [[product.asin, product.title, shop.search(product.title, 3)] for product in shop]


def _trajectories() -> list[Trajectory]:
    steps = [Step("a room", "look", 0.0, "the room"), Step("the room", "go", 1.0, "done")]
    return [Trajectory(f"t{n}", "look", "Look.", steps, success=n % 2 == 0) for n in range(20)]


def _export_result(folder: Path) -> Any:
    return [trajectory.to_json() for trajectory in read_parquet(folder / "all.parquet")]


def _view(folder: Path) -> None:
    (folder / "run").mkdir(exist_ok=True)
    write_jsonl(folder / "run" / "trajectories.jsonl", _trajectories())
    write_page(folder / "run", folder / "page.html")


def _training(*changes: str, warm_start: bool = False) -> Subject:
    """A run of two iterations with evaluations, from a model with random weights or from nothing."""

    def act(folder: Path) -> None:
        from matplotlib.figure import Figure
        from opid_agents.training.loop import run as train

        from tests.agents.models import Critic, tiny_llama, tiny_recipe

        recipe = tiny_recipe(
            Critic.NAME,
            "iterations=2",
            "tasks_per_iteration=1",
            "group_size=2",
            "train_uniform_groups=true",
            "evaluation.tasks=2",
            "evaluation.before=true",
            "world.max_episode_steps=2",
            "prompting.max_reply_tokens=4",
            "warm_start.demonstrations=4",
            "warm_start.check_tasks=2",
            "warm_start.steps=4",
            "warm_start.check_every=2",
            *changes,
        )
        # Drawing is two thirds of such a short run, and nothing reads the figures.
        Figure.savefig = lambda figure, path, **how: Path(path).write_bytes(b"figure")
        train(recipe, folder / "run", policy=None if warm_start else tiny_llama(context=512), resume=True)

    return Subject(act, _training_result, needs="tests.agents.models")


def _training_result(folder: Path) -> Any:
    run = folder / "run"
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    metrics = [{key: value for key, value in line.items() if not key.startswith("seconds/")} for line in lines]
    files = ["trajectories.jsonl", "skills.jsonl", "before.json", "evaluation.json"]
    files += sorted(str(path.relative_to(run)) for path in (run / "model").iterdir())
    return [metrics, {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in files}]


def _sb3(folder: Path) -> None:
    from opid_agents.sb3 import SB3Settings, train

    corridor = parse_spec("tests.corridor:tests/Corridor-v0 max_episode_steps=4")
    arguments = {"n_steps": 16, "batch_size": 16, "n_epochs": 1}
    settings = SB3Settings("ppo", corridor, 32, "words:8", max_actions=4, num_envs=2, arguments=arguments)
    train(settings, folder / "agent", eval_episodes=2, evaluations=2)


def _sb3_result(folder: Path) -> Any:
    from opid_agents.sb3 import CURVE_FILE, MODEL_FILE, SB3Settings
    from stable_baselines3 import PPO

    settings = SB3Settings.load(folder / "agent")
    weights = PPO.load(folder / "agent" / MODEL_FILE, device="cpu").policy.state_dict()
    rows = map(json.loads, (folder / "agent" / CURVE_FILE).read_text().splitlines())
    curve = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    return [settings.steps, curve, {name: hashlib.sha256(w.numpy()).hexdigest() for name, w in weights.items()}]


SUBJECTS = {
    "bench": Subject(_bench, _bench_result),
    "index bm25": _index("bm25", forces="index/bm25"),  # tantivy does
    "index bm25s": _index("bm25s", warms=True),
    "index dense": _index("dense", needs="sentence_transformers"),
    "catalogue": Subject(_catalogue, _catalogue_result),
    "export": Subject(
        lambda folder: write_parquet(folder / "all.parquet", _trajectories()), _export_result, refuses=True
    ),
    "page": Subject(_view, lambda folder: [(folder / "page.html").read_text()], refuses=True),
    "sb3": Subject(_sb3, _sb3_result, needs="opid_agents.sb3", refuses=True),
    "train grpo": _training("algorithm=grpo"),
    "train opid": _training("algorithm=opid", "loss.kl_coef=0.1"),
    "train distilling": _training("algorithm=sdft"),
    "train evaluated": _training("algorithm=grpo", "evaluation.every=1"),
    "train lora": _training("lora.rank=2", "loss.kl_coef=0.1"),
    "train warm start": _training("lora.rank=2", "checkpoint_every=2", warm_start=True),
}


def read(subject: Subject, folder: Path) -> Any:
    """The result, read by a copy of this process, which also closes what it opens; a text if it is refused."""
    answer = folder.with_name(f"{folder.name}.result")

    def write() -> None:
        try:
            found = subject.result(folder)
        except Exception as error:
            found = f"refused: {error!r}"
        answer.write_text(json.dumps(found))

    status = in_copy(write)
    return f"the reader ends with {status}" if status else json.loads(answer.read_text())


def whole(subject: Subject, folder: Path, act: Callable[[], object]) -> Any:
    """The result of an unbroken run.

    Raises:
        RuntimeError: it fails, or there is no result.
    """
    if (status := in_copy(act)) or isinstance(found := read(subject, folder), str):
        raise RuntimeError(f"the unbroken run ends with {status}, its result is {found if not status else 'missing'}")
    return found


def fault_of_next_run(subject: Subject, folder: Path, expected: Any, left: list[str]) -> str | None:
    """Run a subject once more in a folder, and say what is wrong with what it leaves; None: nothing is.

    Args:
        expected: the result of a run that nothing interrupted.
        left: the unfinished files of that run.
    """
    if status := in_copy(lambda: subject.act(folder)):
        return f"the next run ends with {status}"
    if (found := read(subject, folder)) != expected:
        return f"{found!s:.200} instead of {expected!s:.200}"
    if (rest := unfinished(folder)) != left:
        return f"left {rest}"
    return None


def unfinished(folder: Path) -> list[str]:
    """Names of what is being written, or was."""
    kinds = (".new-", ".building", ".old")
    return sorted(path.name for path in folder.rglob(".*") if any(kind in path.name for kind in kinds))


def command(document: str, campaign: Callable[[Subject, int, int], dict[str, Any]], unit: str) -> None:
    """Run a campaign over the subjects that the command line names; ends with 1 if anything went wrong.

    Args:
        document: of the module; its first line is the help.
        campaign: gets a subject, how often, and a seed; returns how often it was and, among others, its ``failures``.
        unit: what is counted.
    """
    parser = argparse.ArgumentParser(description=document.splitlines()[0])
    parser.add_argument(f"--{unit}", type=int, default=10, dest="times", help="of each subject")
    parser.add_argument("--subject", action="append", choices=SUBJECTS, help="only this one; may be repeated")
    parser.add_argument("--results", type=Path, help="file that keeps outcomes, to which is added")
    parser.add_argument("--json", action="store_true", help="one line of JSON in the end")
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not be copied
    kept, total = arguments.results, {unit: 0, "subjects": {}}
    if kept is not None and kept.is_file():
        total = json.loads(kept.read_text(encoding="utf-8"))
    found: dict[str, Any] = total["subjects"]
    for name in arguments.subject or SUBJECTS:
        before = found.get(name, {unit: 0, "failures": []})
        if before[unit] >= arguments.times:
            continue
        now = campaign(SUBJECTS[name], arguments.times - before[unit], before[unit])
        found[name] = now | {key: before[key] + now[key] for key in (unit, "failures")}
        print(f"{name}: {found[name]}", file=sys.stderr)
        total[unit] = sum(one[unit] for one in found.values())
        if kept is not None:
            write_file(kept, json.dumps(total, indent=1) + "\n")
    print(json.dumps(total) if arguments.json else total)
    sys.exit(any(one["failures"] for one in found.values()))
