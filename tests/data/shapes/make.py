"""Writes the files beside it: three questions and three passages in the forms that projects keep them in.

    python tests/data/shapes/make.py

Everything in ``questions`` and ``one_answer`` holds QUESTIONS, in ``one_answer`` with the first golden answer alone;
everything in ``passages`` and ``untitled`` holds PASSAGES, in ``untitled`` without titles.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

QUESTIONS = (
    ("Who wrote Hamlet?", ("William Shakespeare", "Shakespeare")),
    ('What is "the capital" of Kenya, today?', ("Nairobi", "Nairobi City")),
    ("東京はどこの首都ですか", ("日本", "Japan")),
)
PASSAGES = (
    ("0", "Hamlet", "Hamlet is a tragedy by\nWilliam Shakespeare."),
    ("1", '"Heroes" (song)', "A song, 1977; its\ttitle has quotation marks."),
    ("2", "東京", "東京は日本の首都である。"),
)
PROMPT = "Answer the given question. For example, <answer> Beijing </answer>. Question: "


def json_lines(rows: Sequence[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def cells(rows: Sequence[Sequence[str]], delimiter: str) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def parquet(rows: Sequence[Any]) -> bytes:
    import pyarrow
    from pyarrow import parquet as format

    sink = pyarrow.BufferOutputStream()
    format.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def arrow(rows: Sequence[Any], *, stream: bool) -> bytes:
    import pyarrow
    from pyarrow import ipc

    table = pyarrow.Table.from_pylist(rows)
    sink = pyarrow.BufferOutputStream()
    with (ipc.new_stream if stream else ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def packed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def search_r1(number: int, question: str, answers: Sequence[str]) -> dict[str, Any]:
    return {
        "data_source": "nq",
        "prompt": [{"role": "user", "content": f"{PROMPT}{question}\n"}],
        "ability": "fact-reasoning",
        "reward_model": {"style": "rule", "ground_truth": {"target": list(answers)}},
        "extra_info": {"split": "train", "index": number},
    }


def questions() -> dict[str, bytes]:
    numbered = [(number, question, list(answers)) for number, (question, answers) in enumerate(QUESTIONS)]
    flashrag = [{"id": f"test_{n}", "question": q, "golden_answers": a, "metadata": {}} for n, q, a in numbered]
    r1 = [search_r1(n, q, a) for n, q, a in numbered]
    bare = [{**row, "prompt": [{"role": "user", "content": q}]} for row, (_, q, _) in zip(r1, numbered, strict=True)]
    verl = [
        {
            **{key: value for key, value in row.items() if key != "prompt"},
            "extra_info": {"split": "train", "index": n, "question": q, "need_tools_kwargs": True},
        }
        for row, (n, q, _) in zip(r1, numbered, strict=True)
    ]
    verl_agent = [
        {"data_source": "nq", "env_kwargs": {"ground_truth": {"target": a}, "question": q, "data_source": "nq"}}
        for _, q, a in numbered
    ]
    skyrl = [
        {
            "data_source": "nq",
            "prompt": [{"role": "system", "content": "You search."}, {"role": "user", "content": PROMPT + q}],
            "env_class": "search",
            "reward_spec": {"method": "rule", "ground_truth": {"target": a}},
        }
        for _, q, a in numbered
    ]
    musique = [
        {"id": f"2hop__{n}", "question": q, "answer": a[0], "answer_aliases": a[1:], "answerable": True}
        for n, q, a in numbered
    ]
    trivia = [
        {"question": q, "question_id": f"tc_{n}", "answer": {"value": a[0], "aliases": [*a, a[0]], "type": "Entity"}}
        for n, q, a in numbered
    ]
    published = [
        {"Question": q, "QuestionId": f"tc_{n}", "Answer": {"Value": a[0], "Aliases": a}} for n, q, a in numbered
    ]
    nq = [{"question": q, "answer": a} for _, q, a in numbered]
    popqa = [["id", "subj", "question", "possible_answers"]]
    popqa += [[str(4_000 + n), "x", q, json.dumps(a)] for n, q, a in numbered]
    dpr = [{"question": q, "answers": a, "positive_ctxs": []} for _, q, a in numbered]
    kilt = [
        {"id": f"k{n}", "input": q, "output": [{"answer": text} for text in a] + [{"provenance": []}]}
        for n, q, a in numbered
    ]
    squad = [{"id": f"s{n}", "question": q, "answers": {"text": a, "answer_start": [0, 1]}} for n, q, a in numbered]
    in_cells = [["question", "golden_answers"], *([q, repr(a)] for _, q, a in numbered)]
    nested = [["data_source", "prompt", "reward_model"]]
    nested += [["nq", PROMPT + q, json.dumps({"ground_truth": {"target": a}})] for _, q, a in numbered]
    return {
        "flashrag.jsonl": json_lines(flashrag),
        "flashrag_bom_crlf.jsonl": b"\xef\xbb\xbf" + json_lines(flashrag).replace(b"\n", b"\r\n\r\n"),
        "flashrag_array.json": json.dumps(flashrag).encode(),
        "flashrag_indented_array.json": json.dumps(flashrag, indent=2).encode(),
        "flashrag_indented_objects.json": "\n".join(json.dumps(row, indent=2) for row in flashrag).encode(),
        "flashrag.parquet": parquet([{**row, "metadata": {"hops": 1}} for row in flashrag]),
        "flashrag_file.arrow": arrow([{**row, "metadata": {"hops": 1}} for row in flashrag], stream=False),
        "flashrag_stream.arrow": arrow([{**row, "metadata": {"hops": 1}} for row in flashrag], stream=True),
        "flashrag.jsonl.gz": packed(json_lines(flashrag)),
        "flashrag_gzip_called_otherwise.jsonl": packed(json_lines(flashrag)),
        "flashrag.parquet.gz": packed(parquet([{**row, "metadata": {"hops": 1}} for row in flashrag])),
        "flashrag_parquet_called_otherwise.jsonl": parquet([{**row, "metadata": {"hops": 1}} for row in flashrag]),
        "lists_in_cells.csv": cells(in_cells, ","),
        "lists_in_cells.tsv": cells(in_cells, "\t"),
        "lists_in_cells.csv.gz": packed(cells(in_cells, ",")),
        "search_r1.parquet": parquet(r1),
        "search_r1.jsonl": json_lines(r1),
        "search_r1_with_flashrag_columns.jsonl": json_lines(
            [{**row, **one} for row, one in zip(r1, flashrag, strict=True)]
        ),
        "search_r1_json_in_cells.csv": cells(nested, ","),
        "bare_user_message.parquet": parquet(bare),
        "verl.parquet": parquet(verl),
        "verl_list_of_answers.jsonl": json_lines(
            [{**row, "reward_model": {"ground_truth": a}} for row, (_, _, a) in zip(verl, numbered, strict=True)]
        ),
        "verl_agent.parquet": parquet(verl_agent),
        "verl_agent_list_of_answers.jsonl": json_lines(
            [{"env_kwargs": {"ground_truth": a, "question": q}} for _, q, a in numbered]
        ),
        "skyrl.parquet": parquet(skyrl),
        "skyrl_list_of_answers.jsonl": json_lines(
            [{**row, "reward_spec": {"ground_truth": a}} for row, (_, _, a) in zip(skyrl, numbered, strict=True)]
        ),
        "musique.jsonl": json_lines(musique),
        "nq_open.jsonl": json_lines(nq),
        "nq_open.parquet": parquet(nq),
        "triviaqa_hub.jsonl": json_lines(trivia),
        "triviaqa_hub.parquet": parquet(trivia),
        "triviaqa_published.json": json.dumps({"Data": published, "Domain": "Web"}, indent=4).encode(),
        "triviaqa_published_one_line.json": json.dumps({"Data": published, "Domain": "Web"}).encode(),
        "popqa.tsv": cells(popqa, "\t"),
        "popqa.jsonl": json_lines([dict(zip(popqa[0], row, strict=True)) for row in popqa[1:]]),
        "dpr.json": json.dumps(dpr, indent=4).encode(),
        "dpr_without_header.csv": cells([[q, repr(a)] for _, q, a in numbered], "\t"),
        "squad_hub.jsonl": json_lines(squad),
        "squad_hub.parquet": parquet(squad),
        "kilt.jsonl": json_lines(kilt),
        "shards/train-00000-of-00002.parquet": parquet(flashrag_plain(flashrag[:2])),
        "shards/train-00001-of-00002.parquet": parquet(flashrag_plain(flashrag[2:])),
        "saved_by_datasets/data-00000-of-00002.arrow": arrow(flashrag_plain(flashrag[:1]), stream=True),
        "saved_by_datasets/data-00001-of-00002.arrow": arrow(flashrag_plain(flashrag[1:]), stream=True),
        "saved_by_datasets/dataset_info.json": b"{}",
        "gzipped_shards/part-9.jsonl.gz": packed(json_lines(flashrag[:1])),
        "gzipped_shards/part-10.jsonl.gz": packed(json_lines(flashrag[1:])),
    }


def flashrag_plain(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "metadata"} for row in rows]


def one_answer() -> dict[str, bytes]:
    numbered = [(number, question, answers[0]) for number, (question, answers) in enumerate(QUESTIONS)]
    hotpot = [
        {"_id": f"5a{n}", "answer": a, "question": q, "supporting_facts": [["Hamlet", 0]], "context": [["Hamlet", []]]}
        for n, q, a in numbered
    ]
    hub = [{"id": f"5a{n}", "question": q, "answer": a, "type": "bridge", "level": "hard"} for n, q, a in numbered]
    two_wiki = [
        {"_id": f"2w{n}", "type": "bridge", "question": q, "evidences": [], "answer": a} for n, q, a in numbered
    ]
    bamboogle = [["Question", "Answer"], *([q, a] for _, q, a in numbered)]
    verl = [
        {
            "data_source": "x",
            "prompt": [{"role": "user", "content": q}],
            "reward_model": {"style": "rule", "ground_truth": a},
            "extra_info": {"split": "test", "index": n, "question": q, "answer": f"Think. {a}"},
        }
        for n, q, a in numbered
    ]
    return {
        "hotpotqa.json": json.dumps(hotpot).encode(),
        "hotpotqa.json.gz": packed(json.dumps(hotpot, indent=1).encode()),
        "hotpotqa_hub.parquet": parquet(hub),
        "2wikimultihopqa.json": json.dumps(two_wiki).encode(),
        "bamboogle.csv": cells(bamboogle, ","),
        "bamboogle.jsonl": json_lines([dict(zip(bamboogle[0], row, strict=True)) for row in bamboogle[1:]]),
        "verl_text.parquet": parquet(verl),
        "text_instead_of_list.jsonl": json_lines([{"question": q, "golden_answers": a} for _, q, a in numbered]),
        "question_and_answer.tsv": cells([[q, a] for _, q, a in numbered], "\t"),
    }


def passages() -> dict[str, bytes]:
    titled = [{"id": id, "title": title, "text": text} for id, title, text in PASSAGES]
    contents = [{"id": id, "contents": f'"{title}"\n{text}'} for id, title, text in PASSAGES]
    beir = [{"_id": id, "title": title, "text": text, "metadata": {}} for id, title, text in PASSAGES]
    dpr = [["id", "text", "title"], *([id, text, title] for id, title, text in PASSAGES)]
    wikipedia = [
        {"id": id, "url": f"https://example.org/{id}", "title": title, "text": text} for id, title, text in PASSAGES
    ]
    marco = [{"docid": id, "title": title, "segment": text, "start_char": 0} for id, title, text in PASSAGES]
    return {
        "search_r1.jsonl": json_lines(contents),
        "search_r1.jsonl.gz": packed(json_lines(contents)),
        "search_r1_numbers_as_ids.jsonl": json_lines([{**row, "id": int(row["id"])} for row in contents]),
        "search_r1.parquet": parquet(contents),
        "search_r1_array.json": json.dumps(contents).encode(),
        "flashrag.jsonl": json_lines(titled),
        "flashrag_indented.json": "\n".join(json.dumps(row, indent=4) for row in titled).encode(),
        "flashrag.arrow": arrow(titled, stream=True),
        "without_ids.jsonl": json_lines([{"title": title, "text": text} for _, title, text in PASSAGES]),
        "beir.jsonl": json_lines(beir),
        "psgs_w100.tsv": cells(dpr, "\t"),
        "psgs_w100.tsv.gz": packed(cells(dpr, "\t")),
        "without_header.tsv": cells(dpr[1:], "\t"),
        "wikipedia_hub.parquet": parquet(wikipedia),
        "ms_marco_segments.jsonl": json_lines(marco),
        "content.csv": cells([["doc_id", "title", "content"], *(list(row) for row in PASSAGES)], ","),
        "passage.csv": cells([["pid", "title", "passage"], *(list(row) for row in PASSAGES)], ","),
        "shards/part-00000.jsonl": json_lines(contents[:2]),
        "shards/part-00001.jsonl.gz": packed(json_lines(contents[2:])),
        "parquet_shards/train-00000-of-00002.parquet": parquet(wikipedia[:1]),
        "parquet_shards/train-00001-of-00002.parquet": parquet(wikipedia[1:]),
    }


def untitled() -> dict[str, bytes]:
    texts = [(id, text.replace("\n", " ")) for id, _, text in PASSAGES]
    return {
        "contents_of_one_line.jsonl": json_lines([{"id": id, "contents": text} for id, text in texts]),
        "text_alone.jsonl": json_lines([{"text": text} for _, text in texts]),
        "null_titles.jsonl": json_lines([{"id": id, "title": None, "text": text} for id, text in texts]),
        "null_titles.parquet": parquet(
            [{"id": id, "title": "" if id == "0" else None, "text": text} for id, text in texts]
        ),
        "ms_marco.tsv": cells([[id, text] for id, text in texts], "\t"),
    }


def main() -> None:
    here = Path(__file__).parent
    for make in (questions, one_answer, passages, untitled):
        for name, data in make().items():
            path = here / make.__name__ / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


if __name__ == "__main__":
    main()
