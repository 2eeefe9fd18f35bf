"""The embedded questions can be answered from the passages they name, and the splits have nothing in common."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from opid_gym_envs import searchqa
from opid_gym_envs.searchqa.corpus import Passage, read_corpus
from opid_gym_envs.searchqa.factbook import Factbook, load_factbook
from opid_gym_envs.searchqa.factbook_facts import RELATIONS
from opid_gym_envs.searchqa.factbook_passages import WORDS, Country, read_book
from opid_gym_envs.searchqa.factbook_questions import COMPARISON, ONE_HOP, SPLITS, TWO_HOP
from opid_gym_envs.searchqa.questions import Question
from opid_gym_envs.searchqa.scoring import exact_match, normalise

READ = {relation.name: relation.read for relation in RELATIONS}


@pytest.fixture(scope="session")
def questions(factbook: Factbook) -> dict[str, tuple[Question, ...]]:
    return {split: factbook.questions(split) for split in SPLITS}


@pytest.fixture(scope="session")
def passages(factbook: Factbook) -> dict[str, Passage]:
    return {passage.id: passage for passage in read_corpus(factbook.corpus)}


@pytest.fixture(scope="session")
def countries() -> dict[str, Country]:
    return dict(read_book().countries)


def holds(passage: Passage, answer: str) -> bool:
    return f" {normalise(answer)} " in f" {normalise(passage.text)} "


def test_there_are_enough_of_every_kind_in_every_split(questions: dict[str, tuple[Question, ...]]) -> None:
    for split, least in (("train", 2_000), ("dev", 500), ("test", 1_000)):
        assert len(questions[split]) >= least
        for source in (ONE_HOP, TWO_HOP, COMPARISON):
            assert sum(question.source == source for question in questions[split]) >= 100
            assert any(question.source == source for question in questions[split][:50])
    ids = [question.id for split in SPLITS for question in questions[split]]
    texts = [question.text for split in SPLITS for question in questions[split]]
    assert len(set(ids)) == len(ids)
    assert len(set(texts)) == len(texts)
    assert f" {len(ids):,} questions " in str(searchqa.__doc__)


def test_passages_are_short_and_name_their_country(passages: dict[str, Passage]) -> None:
    assert f" {len(passages):,} passages " in str(searchqa.__doc__)
    for passage in passages.values():
        name, _, section = passage.title.partition(": ")
        assert passage.text.startswith(f"{name}. ")
        assert section
        assert len(passage.text.split()) <= WORDS + len(name.split())
        assert not re.search(r"<[a-z/]|&[a-z]+;", passage.text)


def test_the_best_answer_stands_in_the_last_passage(
    questions: dict[str, tuple[Question, ...]], passages: dict[str, Passage]
) -> None:
    for split in SPLITS:
        for question in questions[split]:
            assert len(question.supports) == len(question.queries) == (1 if question.source == ONE_HOP else 2)
            if question.source != COMPARISON:
                assert holds(passages[question.supports[-1]], question.answers[0]), question
            if question.source == TWO_HOP:
                first, second = (passages[id] for id in question.supports)
                assert first != second
                assert not any(holds(first, answer) for answer in question.answers), question


def test_the_first_passage_of_two_leads_to_the_second(
    questions: dict[str, tuple[Question, ...]], passages: dict[str, Passage], countries: dict[str, Country]
) -> None:
    """The description in the question stands in the first passage, and either the passage is about the country of the
    second or it names it."""
    for split in SPLITS:
        for question in questions[split]:
            if question.source != TWO_HOP:
                continue
            first, second = (passages[id] for id in question.supports)
            bridge = countries[second.id[:2]]
            if first.id[:2] == bridge.code:
                assert bridge.name not in question.text
                quoted = READ[question.id.split(":")[3]](countries[bridge.code].fields[field_of(question)])[0]
                assert quoted in question.text
                assert holds(first, quoted)
            else:
                assert countries[first.id[:2]].name.removeprefix("The ") in question.text
                assert any(holds(first, name) for name in bridge.names), question


def field_of(question: Question) -> str:
    return next(relation.path for relation in RELATIONS if relation.name == question.id.split(":")[3])


def test_both_figures_of_a_comparison_stand_in_their_passages_and_differ(
    questions: dict[str, tuple[Question, ...]], passages: dict[str, Passage], countries: dict[str, Country]
) -> None:
    for split in SPLITS:
        for question in questions[split]:
            if question.source != COMPARISON:
                continue
            relation = next(relation for relation in RELATIONS if relation.name == question.id.split(":")[3])
            pair = [countries[id[:2]] for id in question.supports]
            assert relation.value is not None
            values = []
            for country, id in zip(pair, question.supports, strict=True):
                assert holds(passages[id], relation.read(country.fields[relation.path])[0])
                assert country.place in question.text
                values.append(relation.value(country.fields[relation.path]) or 0.0)
            winner = pair[values.index(max(values))]
            assert question.answers[0] == winner.name
            assert max(values) > min(values)
            assert not exact_match(pair[values.index(min(values))].name, question.answers)


def test_splits_share_no_country(questions: dict[str, tuple[Question, ...]], countries: dict[str, Country]) -> None:
    """Whatever a question says, accepts or needs; found here by whole words of short names, the longest first."""
    by_name = {name: code for code, country in countries.items() if country.is_subject for name in country.names}
    anywhere = re.compile(r"\b(?:" + "|".join(map(re.escape, sorted(by_name, key=len, reverse=True))) + r")(?!\w)")
    found: dict[str, set[str]] = {}
    for split in SPLITS:
        found[split] = set()
        for question in questions[split]:
            found[split] |= {id[:2] for id in question.supports}
            for text in (question.text, *question.answers):
                found[split] |= {by_name[name] for name in anywhere.findall(text)}
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not found[one] & found[other]
    assert sum(map(len, found.values())) > 220


@pytest.mark.parametrize(
    ("relation", "text", "answers"),
    [
        ("capital", "Tripoli (Tarabulus)", ("Tripoli", "Tarabulus")),
        ("capital", "Porto-Novo (constitutional capital); Cotonou (seat of government)", ("Porto-Novo", "Cotonou")),
        ("capital", "Santiago; note - Valparaiso is the seat of the national legislature", ("Santiago",)),
        ("capital", "no official capital; government offices in the Yaren District", ()),
        ("currency", "Danish kroner (DKK) per US dollar -", ("Danish kroner", "Danish krone", "DKK")),
        ("currency", "Tuvaluan dollars or Australian dollars (AUD) per US dollar -", ()),
        ("highest-point", "Mt. Fogo (a volcano on Fogo Island) 2,829 m", ("Mt. Fogo", "Mount Fogo")),
        ("highest-point", "Fako on Mont Cameroun 4,045 m", ("Fako on Mont Cameroun", "Fako")),
        ("highest-point", "K2 (Mt. Godwin-Austen) 8,611 m", ("K2", "Mt. Godwin-Austen", "Mount Godwin-Austen")),
        ("highest-point", "unnamed elevation on Mukike Range 2,685 m", ()),
        ("lowest-point", "Atlantic Ocean 0 m", ()),
        ("lowest-point", "Dead Sea -431 m", ("Dead Sea",)),
        ("chief-of-state", "King CHARLES III (since 8 September 2022); represented by Governor Ann SMITH", ()),
        (
            "chief-of-state",
            "President Jose Maria Pereira NEVES (since 9 November 2021)",
            ("Jose Maria Pereira Neves", "Neves", "Jose Neves", "President Jose Maria Pereira Neves"),
        ),
        ("anthem", '"La Marseillaise" (The Song of Marseille)', ("La Marseillaise", "The Song of Marseille")),
        ("anthem", '"Himno Nacional" (National Anthem)', ()),
        ("independence", "12 December 1963 (from the UK)", ("12 December 1963", "December 12, 1963")),
        ("independence", "24 September 1973 (declared); 10 September 1974 (from Portugal)", ()),
        ("ethnic-group", "Arab 95%, Armenian 4%, other 1%", ("Arab",)),
        ("ethnic-group", "mixed 45.3%, White 43.5%", ()),
        ("language", "Arabic (official), English widely spoken", ("Arabic",)),
        ("language", "English (official), Kiswahili (official)", ()),
        ("longest-border", "Ethiopia 867 km; Somalia 684 km; Uganda 814 km", ("Ethiopia",)),
        ("export-partner", "Germany 10%, USA 10%, Denmark 8% (2023)", ()),
        ("area", "1.284 million sq km", ("1.284 million sq km", "1.284 million square kilometers", "1.284 million")),
        ("coastline", "0 km (landlocked)", ()),
        ("divisions", "12 districts and 2 autonomous districts*; Abidjan*, Bas-Sassandra", ()),
        ("symbol", "quetzal (bird)", ("quetzal",)),
    ],
)
def test_answers_are_cleaned_or_not_asked_for(relation: str, text: str, answers: tuple[str, ...]) -> None:
    assert READ[relation](text) == answers


def test_it_is_the_same_in_every_process(factbook: Factbook, tmp_path: Path) -> None:
    code = "import sys; from opid_gym_envs.searchqa.factbook import load_factbook; load_factbook(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env={"PYTHONHASHSEED": "7"})
    again = load_factbook(tmp_path)
    assert again.folder.name == factbook.folder.name
    for file in ("corpus.jsonl", "train.jsonl", "dev.jsonl", "test.jsonl"):
        assert (again.folder / file).read_bytes() == (factbook.folder / file).read_bytes()


def test_an_unknown_split_is_named(factbook: Factbook) -> None:
    with pytest.raises(ValueError, match=r"splits are \['train', 'dev', 'test'\], got 'valid_seen'"):
        factbook.questions("valid_seen")
