"""Official files are read as stock WebShop reads them, and what it could not read is refused by name.

``tests/data/webshop/stock_products.json`` holds what stock's own ``load_products`` made of each record (and what its
``convert_product_file_format`` would have given Lucene).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from opid_gym_envs.webshop import Catalogue
from opid_gym_envs.webshop.generator import generate
from opid_gym_envs.webshop.goals import Goals
from opid_gym_envs.webshop.official import OfficialFiles, Skipped, iterate_array, iterate_object, read_products
from opid_gym_envs.webshop.product import Product

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "webshop" / "stock_products.json").read_text(encoding="utf-8")
)
FIRST = RECORDED["cases"][0]
# Stock wants an image of every product, for pages that show it; in text it is never used.
LENIENT = {"images_missing", "images_empty"}


def write(folder: Path, items: Any, attributes: Any = None, human: Any = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "items_shuffle.json").write_text(items if isinstance(items, str) else json.dumps(items))
    (folder / "items_ins_v2.json").write_text(json.dumps(attributes or {}))
    if human is not None:
        (folder / "items_human_ins.json").write_text(json.dumps(human))
    return folder


def record(changes: dict[str, Any], without: tuple[str, ...] = ()) -> dict[str, Any]:
    return {name: value for name, value in {**RECORDED["record"], **changes}.items() if name not in without}


def read(folder: Path) -> list[Product]:
    return list(read_products(OfficialFiles.of(folder), Skipped()))


def as_recorded(product: Product) -> dict[str, Any]:
    shown = {name: value for name, value in asdict(product).items() if name in FIRST["product"]}
    return json.loads(json.dumps(shown))  # type: ignore[no-any-return]


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: case["name"])
def test_a_record_comes_out_as_from_stock(case: dict[str, Any], tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [record(case["changes"], tuple(case["without"]))], case["attributes"])
    if case["outcome"] == "error" and case["name"] not in LENIENT:
        with pytest.raises(ValueError, match=r"items_shuffle.json: product 0 \(asin "):
            read(folder)
        return
    products = read(folder)
    if case["outcome"] == "skipped":
        assert products == []
        return
    (product,) = products
    if case["name"] in LENIENT:
        return
    expected = FIRST["product"] | case["product"]
    if expected["instruction_attributes"] is None:
        expected["instruction_attributes"] = []
    assert as_recorded(product) == expected
    if case["contents"] is not None:  # stock cannot index a product without bullet points
        assert product.search_text == (FIRST if case["contents"] == "as the first" else case)["contents"]


def test_repeated_and_unlisted_products_are_passed_over_and_counted(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [record(changes) for changes in RECORDED["several"]["records"]])
    shop = Catalogue.load(folder, cache_dir=tmp_path / "cache")
    assert [shop.by_index(number).title for number in range(len(shop))] == RECORDED["several"]["titles"]
    assert shop.skipped == {"unlisted": 2, "repeated": 2}
    assert Catalogue.load(folder, cache_dir=tmp_path / "cache").skipped == shop.skipped


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pricing": "call us"}, r"product 1 \(asin 'B2'\): pricing 'call us' names no amount; '\$12.50', "),
        ({"name": None}, r"product 1 \(asin 'B2'\): name must be text, got None"),
        ({"small_description": ["a", 5]}, r"product 1 \(asin 'B2'\): small_description must be text, got 5"),
        ({"asin": 12}, r"product 1 \(asin 12\): asin must be text, got 12"),
        ({"customization_options": {"Size": 5}}, r"customization_options \{'Size': 5\} are not"),
        ({"customization_options": {"Size": [{"price": 1}]}}, r"are not \{name: \[\{'value': text\}"),
    ],
)
def test_a_malformed_product_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [record({"asin": "B1"}), record({"asin": "B2"} | changes)])
    with pytest.raises(ValueError, match=message):
        Catalogue.load(folder, cache_dir=tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]  # nothing half-built is left


def test_generated_products_written_as_official_files_come_back(tmp_path: Path) -> None:
    products = list(generate(60))
    items, attributes = [], {}
    for product in products:
        items.append(
            {
                "asin": product.asin,
                "name": product.title,
                "full_description": product.description,
                "small_description": list(product.bullet_points),
                "category": product.category,
                "product_category": product.product_category,
                "query": product.query,
                "pricing": " - ".join(f"${price}" for price in product.pricing),
                "images": [],
                "customization_options": {
                    name: [{"value": value.upper()} for value in values] for name, values in product.options.items()
                },
            }
        )
        entry: dict[str, Any] = {"attributes": list(product.attributes)}
        if product.instruction is not None:
            entry |= {
                "instruction": product.instruction,
                "instruction_attributes": list(product.instruction_attributes),
            }
        attributes[product.asin] = entry
    shop = Catalogue.load(write(tmp_path / "data", items, attributes), cache_dir=tmp_path / "cache")
    assert [shop.by_index(number) for number in range(len(shop))] == products
    made = Catalogue.generated(60, cache_dir=tmp_path / "cache")
    for product in products:
        assert shop.search(product.title) == made.search(product.title)


# ------------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"attributes": "wood"}, r"product 0 \(asin 'B1'\): attributes must be a list of texts, got 'wood'"),
        ({"instruction": ["buy"], "instruction_attributes": ["wood"]}, r"instruction must be text, got \['buy'\]"),
        ({"instruction": "buy", "instruction_attributes": "wood"}, r"instruction_attributes must be a list of texts"),
    ],
)
def test_a_malformed_instruction_is_named(entry: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [record({"asin": "B1"})], {"B1": entry})
    with pytest.raises(ValueError, match=message):
        Catalogue.load(folder, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instruction": None}, "instruction must be text, got None"),
        ({"instruction_attributes": "wood"}, "instruction_attributes must be a list of texts, got 'wood'"),
        ({"instruction_options": ["red", None]}, "instruction_options must be text, got None"),
    ],
)
def test_a_malformed_instruction_by_people_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    entry = {"instruction": "i need a table", "instruction_attributes": ["wood"], "instruction_options": []}
    folder = write(tmp_path / "data", [record({"asin": "B1"})], human={"B1": [{**entry, **change}]})
    with pytest.raises(ValueError, match=f"items_human_ins.json: an entry of 'B1': {message}"):
        Goals(Catalogue.load(folder, cache_dir=tmp_path / "cache"), "human")


def test_what_would_make_too_many_goals_is_named(tmp_path: Path) -> None:
    options = {f"part {number}": [{"value": str(value)} for value in range(100)] for number in range(12)}
    entry = {"attributes": ["wood"], "instruction": "buy", "instruction_attributes": ["wood"]}
    folder = write(tmp_path / "data", [record({"asin": "B1", "customization_options": options})], {"B1": entry})
    shop = Catalogue.load(folder, cache_dir=tmp_path / "cache")
    with pytest.raises(
        ValueError, match=r"product 'B1' has 1,000,000,[0,]* combinations of options.*10,000,000 at most"
    ):
        Goals(shop, "synthetic")


def test_a_shop_without_goals_says_where_they_come_from(tmp_path: Path) -> None:
    shop = Catalogue.load(write(tmp_path / "data", [record({"asin": "B1"})]), cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match=r"synthetic goals; they come with an 'instruction' in items_ins_v2\*.json"):
        Goals(shop, "synthetic")


def test_a_file_without_products_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"items_shuffle.json: no products in it$"):
        Catalogue.load(write(tmp_path / "data", []), cache_dir=tmp_path / "cache")
    folder = write(tmp_path / "data", [record({"asin": "nan"}), record({"asin": "B0123456789"})])
    with pytest.raises(ValueError, match=r"no products in it, of 2 records none that is listed"):
        Catalogue.load(folder, cache_dir=tmp_path / "cache")


def test_half_a_character_in_a_title_stops_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [record({"asin": "B1", "name": "wooden table \ud800"})])
    shop = Catalogue.load(folder, cache_dir=tmp_path / "cache")
    assert shop.product("B1").title == "wooden table \ud800"
    assert shop.search("wooden") == ["B1"]


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data_dir='.*nowhere' is not a folder"):
        Catalogue.load(tmp_path / "nowhere")
    (tmp_path / "readme.txt").touch()
    with pytest.raises(
        FileNotFoundError, match=r"no items_shuffle\*.json in .*\(there: readme.txt\); WebShop's data are"
    ):
        Catalogue.load(tmp_path)
    (tmp_path / "items_shuffle_1000.json").write_text("[]")
    with pytest.raises(FileNotFoundError, match=r"no items_ins_v2\*.json in"):
        Catalogue.load(tmp_path)


def test_either_set_is_found_and_the_full_one_where_it_is_chosen(tmp_path: Path) -> None:
    for name in ("items_shuffle_1000.json", "items_ins_v2_1000.json"):
        (tmp_path / name).touch()
    files = OfficialFiles.of(tmp_path)
    assert (files.items.name, files.attributes.name, files.human) == (
        "items_shuffle_1000.json",
        "items_ins_v2_1000.json",
        None,
    )
    for name in ("items_shuffle.json", "items_ins_v2.json", "items_human_ins.json"):
        (tmp_path / name).touch()
    files = OfficialFiles.of(tmp_path, "full")
    assert (files.items.name, files.attributes.name) == ("items_shuffle.json", "items_ins_v2.json")
    assert files.human == tmp_path / "items_human_ins.json"


def test_instructions_by_people_are_kept(tmp_path: Path) -> None:
    human = {"B1": [{"instruction": "i need a table.", "instruction_attributes": ["wood"], "instruction_options": []}]}
    folder = write(tmp_path / "data", [record({"asin": "B1"})], human=human)
    assert Catalogue.load(folder, cache_dir=tmp_path / "cache").human_goals == human
    folder = write(tmp_path / "data", [record({"asin": "B1"})], human={"B1": "i need a table"})
    with pytest.raises(ValueError, match=r"_ins.json: the instructions of 'B1' are not a list of objects"):
        Catalogue.load(folder, cache_dir=tmp_path / "cache")


def test_changed_files_make_another_catalogue(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [record({"asin": "B1"})])
    first = Catalogue.load(folder, cache_dir=tmp_path / "cache")
    write(folder, [record({"asin": "B2"})])
    second = Catalogue.load(folder, cache_dir=tmp_path / "cache")
    assert (list(first.asins), list(second.asins)) == (["B1"], ["B2"])


# ------------------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 20])
def test_json_is_read_the_same_whatever_the_pieces(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opid_gym_envs.json_stream._CHUNK", chunk)
    values = [{"a": [1, 2.5, "NaN", 'ü\\"]}'], "b": {}}, "text", 12, -0.5, None, True, [], {"": ""}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")
    assert list(iterate_array(path)) == values
    path.write_text(json.dumps({"x": values, "y": 1}), encoding="utf-8")
    assert list(iterate_object(path)) == [("x", values), ("y", 1)]
    path.write_text(" [ ] ")
    assert list(iterate_array(path)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "near element 0: expected '\\[', found ''"),
        ('{"a": 1}', "near element 0: expected '\\[', found '\\{\"a\": 1\\}'"),
        ('[{"a": 1}, {"b"', "near element 1: Expecting ':' delimiter"),
        ('[{"a": 1}, {"b": "unclosed]', "near element 1: Unterminated string"),
        ('[{"a": 1} {"b": 1}]', "near element 0: expected ',', found '\\{\"b\": 1\\}\\]'"),
        ('[{"a": 1}', "near element 0: expected ',', found ''"),
        ("[1] 2", "near element 0: there is more after the end: '2'"),
        ("[0, " + "[" * 100_000, "near element 1: nested too deeply"),
    ],
)
def test_broken_json_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"a.json: not JSON of the official form {message}"):
        list(iterate_array(path))


def test_other_bytes_than_utf8_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [])
    (folder / "items_shuffle.json").write_bytes(b'[{"name": "\xff"}]')
    with pytest.raises(ValueError, match=r"items_shuffle.json: .* not UTF-8: invalid start byte"):
        read(folder)


def test_what_is_no_number_for_json_is_one_for_stock(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"average_rating": NaN}]')
    assert repr(list(iterate_array(path))) == "[{'average_rating': nan}]"


class TestChoosingACatalogue:
    def folder(self, tmp_path: Path, *names: str) -> Path:
        for name in names:
            content = json.dumps([record({"asin": name[:10]})]) if name.startswith("items_shuffle") else "{}"
            (tmp_path / name).write_text(content)
        return tmp_path

    def test_the_only_one_is_taken_and_named(self, tmp_path: Path) -> None:
        small = self.folder(tmp_path, "items_shuffle_1000.json", "items_ins_v2_1000.json")
        assert OfficialFiles.of(small).name == "small"
        assert OfficialFiles.of(small, "small") == OfficialFiles.of(small)
        with pytest.raises(
            FileNotFoundError, match=r"no items_shuffle.json in .*there: items_ins_v2_1000.json, items_"
        ):
            OfficialFiles.of(small, "full")

    def test_of_several_one_must_be_chosen(self, tmp_path: Path) -> None:
        both = self.folder(
            tmp_path, "items_shuffle.json", "items_ins_v2.json", "items_shuffle_1000.json", "items_ins_v2_1000.json"
        )
        with pytest.raises(ValueError, match="choose with catalogue='full' or catalogue='small'"):
            OfficialFiles.of(both)
        assert OfficialFiles.of(both, "full").items.name == "items_shuffle.json"
        assert OfficialFiles.of(both, "small").attributes.name == "items_ins_v2_1000.json"
        mixed = OfficialFiles.of(both, "items_shuffle_1000.json+items_ins_v2.json")
        assert (mixed.name, mixed.attributes.name) == ("items_shuffle_1000.json+items_ins_v2.json", "items_ins_v2.json")
        with pytest.raises(ValueError, match=r"catalogue must be one of \('full', 'small'\) or .*, got 'medium'"):
            OfficialFiles.of(both, "medium")

    def test_files_of_different_catalogues_are_never_mixed_silently(self, tmp_path: Path) -> None:
        mixed = self.folder(tmp_path, "items_shuffle_1000.json", "items_ins_v2.json")
        with pytest.raises(ValueError, match=r"choose with catalogue='items_shuffle_1000.json\+items_ins_v2.json'"):
            OfficialFiles.of(mixed)
        (mixed / "items_shuffle_mine.json").write_text("[]")
        (mixed / "items_ins_v2_mine.json").write_text("{}")
        with pytest.raises(ValueError, match=r"choose with catalogue='items_shuffle_mine.json"):
            OfficialFiles.of(mixed)
