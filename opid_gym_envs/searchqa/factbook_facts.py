"""What can be asked about a country: relations, and how each is read out of a field of the book.

A reader takes the text of one field and returns every accepted answer, the best first, or nothing where the text does
not say it plainly: a footnote, two rival claims, no name at all. Such countries go without that question.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Answers = tuple[str, ...]
Reader = Callable[[str], Answers]

_GLOSS = re.compile(r" ?[\[(][^()\[\]]*[)\]]")
_NAME = re.compile(r"[A-Z][\w'’.\- ]*")
_NUMBER = r"\d[\d,]*(?:\.\d+)?"


@dataclass(frozen=True, slots=True)
class Relation:
    """One kind of fact.

    Attributes:
        name: part of the ids of questions.
        path: the field that tells it.
        read: field -> accepted answers.
        question: ``{place}`` is a country, or words that stand for one.
        query: what one would search for, ``{name}`` being the country.
        identifies: how the answer, ``{answer}``, describes the country, where it can; ``{kind}`` is "country" or
            "territory".
        clue: what one would search for to find the country, given the answer.
        country: the answer is itself a country.
        value: field -> number, for comparisons.
        compare: the question that compares two countries by `value`; the larger is the answer.
    """

    name: str
    path: str
    read: Reader
    question: str
    query: str
    identifies: str = ""
    clue: str = ""
    country: bool = False
    value: Callable[[str], float | None] | None = None
    compare: str = ""


# ------------------------------------------------------------------------------------------------------ reading


def without_glosses(text: str) -> str:
    """The text without what stands in brackets, nested ones included.

    >>> without_glosses("Kyiv (Kiev (old)) and [sic] Lviv")
    'Kyiv and Lviv'
    """
    while (shorter := _GLOSS.sub("", text)) != text:
        text = shorter
    return " ".join(text.split())


def _other_names(text: str) -> Iterator[str]:
    """Names in brackets that are nothing but a name: ``Tripoli (Tarabulus)``, ``Nicosia (Lefkosia/Lefkosa)``."""
    for gloss in re.findall(r"\(([^()]*)\)", text):
        parts = re.split(r"[/,] ?", gloss)
        if all(_NAME.fullmatch(part) for part in parts):
            yield from parts


def _unique(*answers: str) -> Answers:
    return tuple(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))


def split_outside_brackets(text: str, separators: str) -> list[str]:
    """The parts of a list whose items may have brackets with separators in them.

    >>> split_outside_brackets("Arab (Sunni, Shia) 95%, other 5%", ",")
    ['Arab (Sunni, Shia) 95%', 'other 5%']
    """
    parts = [""]
    depth = 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter in separators and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def number(text: str) -> float | None:
    """The number that a text begins with: ``1.284 million sq km`` -> 1284000.0; None if it does not."""
    match = re.match(rf"({_NUMBER})( million| billion)?", text)
    if match is None:
        return None
    return float(match.group(1).replace(",", "")) * {" million": 1e6, " billion": 1e9}.get(match.group(2) or "", 1.0)


def _quantity(*units: str, plain: bool = True) -> Reader:
    """Reads a figure followed by the first unit; accepted with every unit, and alone."""

    def read(text: str) -> Answers:
        match = re.match(rf"({_NUMBER}(?: million)?) ?{re.escape(units[0])}", text)
        if match is None or number(text) == 0:
            return ()
        figure = match.group(1)
        return _unique(*(f"{figure} {unit}" for unit in units), figure if plain else "")

    return read


def _count(text: str) -> Answers:
    match = re.match(r"(\d[\d,]*)(?=$| ?\()", text)
    return (match.group(1),) if match else ()


def _positive(text: str) -> float | None:
    return number(text) or None


def capital(text: str) -> Answers:
    """One capital with its other names; where there are several, any of them."""
    if "administered" in text or "no official" in text:
        return ()
    places = [
        place
        for place in split_outside_brackets(text.partition("; note")[0], ";,")
        if not re.match(r"note|D\.?C", place)
    ]
    if any(not _NAME.fullmatch(without_glosses(place)) or " is " in without_glosses(place) for place in places):
        return ()
    names = [name for place in places for name in (without_glosses(place), *_other_names(place))]
    return _unique(*names, "Washington, D.C." if "Washington" in names else "")


_SINGULAR = {
    "kroner": "krone",
    "kronor": "krona",
    "kronur": "krona",
    "koruny": "koruna",
    "leva": "lev",
    "lei": "leu",
    "leke": "lek",
    "zlotych": "zloty",
    "maloti": "loti",
    "emalangeni": "lilangeni",
    "meticais": "metical",
    "colones": "colon",
    "quetzales": "quetzal",
    "dirhams": "dirham",
}


def currency(text: str) -> Answers:
    """The currency in the plural, as the book has it, in the singular, and by its code."""
    match = re.match(r"([^(/]+?)(?: \(([A-Z]{2,3})(?:/([A-Z]{3}))?\))? per US dollar", text)
    if match is None or " or " in match.group(1):
        return ()
    plural = match.group(1)
    *before, last = plural.split()
    singular = _SINGULAR.get(last) or (last[:-1] if last.endswith("s") and not last.endswith("ss") else last)
    return _unique(plural, " ".join([*before, singular]), match.group(2) or "", match.group(3) or "")


def summit(text: str) -> Answers:
    """The name of a highest or lowest point, with and without the range or island it is on."""
    match = re.match(r"(.+?),? -?[\d,.]+(?: m\b|$)", text)
    if match is None:
        return ()
    name = without_glosses(match.group(1))
    if re.search(r"unnamed|location| was | and |;|note", name):
        return ()
    if not re.match(r"[^\W\d_a-z]", name) or len(name.split()) > 7:
        return ()
    spot = name.partition(" on ")[0]
    names = [name, spot, *(_other_names(match.group(1)) if name == spot else ()), *spot.split("/")]
    return _unique(*names, *(each.replace("Mt.", "Mount") for each in names if "Mt." in each))


def lowest(text: str) -> Answers:
    """As `summit`; the sea is no answer."""
    return () if re.search(r"\b0 m", text) or re.search(r"Ocean|Sea\b.*0 m$", text) else summit(text)


def height(text: str) -> float | None:
    """Metres of a highest point."""
    match = re.search(r" ([\d,]+)(?: m\b|$)", text)
    return number(match.group(1)) if match and summit(text) else None


_TITLE = re.compile(
    r"(?:(?:Acting|Vice|Interim|Transitional|Transition|President|Prime|Minister|King|Queen|Emperor|Sultan|Amir|Prince|Crown"
    r"|Grand|Duke|Pope|Premier|Chancellor|Federal|Chief|Executive|Taoiseach|Sir|Dame|Dr\.|Gen\.|General|Col\.|Capt\.|Lt\."
    r"|and|Foreign|First|Supreme|Leader|Governor|Administrator) )+"
)


def person(text: str) -> Answers:
    """Who holds an office: the name in full, by the family name (which the book capitalises), and with the title."""
    match = re.match(r"([^();,]+) \(since [^()]*\)(?=$|; note)", text)
    if match is None:
        return ()
    title = _TITLE.match(match.group(1))
    name = match.group(1)[title.end() :] if title else match.group(1)
    words = name.split()
    family = [word for word in words if re.fullmatch(r"(?:al-)?[^\W\d_a-z](?:[^\W\d_a-z]|['’-])+", word)]
    if title is None or not family or not 1 <= len(words) <= 6 or words[0] in ("of", "the"):
        return ()
    shown = " ".join(_capitalised(word) if word in family else word for word in words)
    surname = " ".join(_capitalised(word) for word in family)
    short = f"{words[0]} {surname}" if words[0] not in family else ""
    return _unique(shown, surname, short, f"{title.group()}{shown}")


def _capitalised(word: str) -> str:
    if re.fullmatch(r"[IVX]+", word):
        return word
    return re.sub(r"[^\W\d_]+", lambda match: match.group()[0] + match.group()[1:].lower(), word)


def anthem(text: str) -> Answers:
    """The title and its translation; titles that only say "national anthem" are not asked for."""
    text = re.sub("[“”]", '"', text)
    match = re.fullmatch(r'"([^"]+)" ?(?:\(([^()]*)\))?', text)
    if match is None or re.search("anthem|hin?mno nacional", match.group(1), re.IGNORECASE):
        return ()
    translation = match.group(2) or ""
    return _unique(match.group(1), "" if "anthem" in translation.lower() else translation)


def independence(text: str) -> Answers:
    """A single date of independence from somebody, in both usual orders."""
    match = re.fullmatch(r"(\d{1,2}) ([A-Z][a-z]+) (\d{4}) \(from [^()]*\)", text)
    if match is None:
        return ()
    day, month, year = match.groups()
    return (f"{day} {month} {year}", f"{month} {day}, {year}")


def age_of_independence(text: str) -> float | None:
    """Larger for earlier dates, so that the earlier of two is the larger."""
    answers = independence(text)
    return 3000.0 - float(answers[0].split()[-1]) if answers else None


def internet_code(text: str) -> Answers:
    """A domain with and without its dot."""
    return (text, text[1:]) if re.fullmatch(r"\.[a-z]{2}", text) else ()


def prefix(text: str) -> Answers:
    """Aircraft prefixes; any of several."""
    return _unique(*text.split(", ")) if re.fullmatch(r"[A-Z0-9-]+(, [A-Z0-9-]+)*", text) else ()


def largest_city(text: str) -> Answers:
    """The most populous of at least two urban areas."""
    cities = re.findall(rf"({_NUMBER}(?: million)?) ([^\d,;()]+)", text)
    if len(cities) < 2:
        return ()
    name = max(cities, key=lambda city: number(city[0]) or 0.0)[1].strip()
    return (name.title() if name.isupper() else name,)


def largest_share(text: str) -> Answers:
    """The first item of a list, if its share is given and larger than every other's."""
    shares = []
    for item in split_outside_brackets(text, ",;"):
        match = re.match(r"([^\d(]+?)(?: \(.*\))? ([\d.]+)%", item)
        if match is None:
            break
        shares.append((float(match.group(2)), match.group(1)))
    if len(shares) < 2 or any(share >= shares[0][0] for share, _ in shares[1:]):
        return ()
    name = re.sub(r" (at least|about|approximately)$", "", shares[0][1])
    if re.search(r"other|unspecified|none|/|mixed| and ", name, re.IGNORECASE) or not _NAME.fullmatch(name):
        return ()
    return (name,)


def official_language(text: str) -> Answers:
    """The one language that is official."""
    if text.count("official") != 1:
        return ()
    match = re.search(r"(?:^|, |; )([A-Z][A-Za-z ]*?)(?: \([A-Z][A-Za-z ]*\))? \(official\)", text)
    return _unique(*match.group(1).split(" or ")) if match else ()


def legislature(text: str) -> Answers:
    """A name that is more than "Parliament", in English and in the language of the country."""
    match = re.fullmatch(r"([^()]+?)(?: \(([^()]+)\))?", text)
    if match is None or re.search(r" - |;|, ", text) or len(match.group(1).split()) < 2:
        return ()
    if match.group(1) in ("National Assembly", "National Parliament", "Federal Parliament"):
        return ()
    return _unique(match.group(1), match.group(2) or "")


def first_item(text: str) -> Answers:
    """The first of a ranked list of goods."""
    match = re.match(r"([a-z][a-z ]+),", text)
    return (match.group(1),) if match else ()


def first_partner(text: str) -> Answers:
    """The country with the largest share of trade."""
    shares = re.findall(r"([A-Z][A-Za-z .'-]+?) (\d+)%", text)
    return (shares[0][0],) if len(shares) > 1 and int(shares[0][1]) > int(shares[1][1]) else ()


def longest_border(text: str) -> Answers:
    """The neighbour with the longest border, of at least two."""
    borders = re.findall(r"(?:^|[;,] )([A-Z][A-Za-z .'-]+?) ([\d,.]+) km", text)
    if len(borders) < 2 or len(borders) != len(split_outside_brackets(text, ";")):
        return ()
    lengths = sorted((float(length.replace(",", "")), name) for name, length in borders)
    return (lengths[-1][1],) if lengths[-1][0] > lengths[-2][0] else ()


def former_names(text: str) -> Answers:
    """Every former name in a plain list of them."""
    names = [without_glosses(name) for name in split_outside_brackets(text, ",;")]
    plain = all(re.fullmatch(r"[A-Z][\w'’./\- ]{3,50}", name) for name in names)
    return _unique(*names) if plain and len(names) <= 5 and " is " not in text and "sometimes" not in text else ()


def divisions(text: str) -> Answers:
    """How many divisions, where all are of one kind."""
    match = re.match(r"(\d+) ([a-z]+(?: [a-z]+)?)(?: \([^;:]*?\))?[;:] ", text)
    if match is None or "*" in text or " and " in match.group():
        return ()
    return (match.group(1), f"{match.group(1)} {match.group(2)}")


def government_type(text: str) -> Answers:
    """A form of government in a few plain words."""
    plain = re.fullmatch(r"[a-z\- ]+", text) and 2 <= len(text.split()) <= 5 and "in transition" not in text
    return (text,) if plain else ()


def national_symbol(text: str) -> Answers:
    """The only symbol."""
    name = without_glosses(text)
    plain = re.fullmatch(r"[A-Za-z' \-]+", name) and len(name.split()) <= 4 and not re.match(r"no\b|none", name)
    return _unique(name, *_other_names(text)) if plain else ()


# ---------------------------------------------------------------------------------------------------- relations

RELATIONS: Sequence[Relation] = (
    Relation(
        "capital",
        "Government/Capital/name",
        capital,
        "What is the capital of {place}?",
        "{name} government capital name",
        identifies="the {kind} whose capital is {answer}",
        clue="capital name {answer}",
    ),
    Relation(
        "currency",
        "Economy/Exchange rates/Currency",
        currency,
        "What is the currency of {place}?",
        "{name} exchange rates currency dollar",
    ),
    Relation(
        "highest-point",
        "Geography/Elevation/highest point",
        summit,
        "What is the highest point of {place}?",
        "{name} elevation highest point",
        identifies="the {kind} whose highest point is {answer}",
        clue="elevation highest point {answer}",
        value=height,
        compare="Which reaches the greater elevation, {first} or {second}?",
    ),
    Relation(
        "lowest-point",
        "Geography/Elevation/lowest point",
        lowest,
        "What is the lowest point of {place}?",
        "{name} elevation lowest point",
    ),
    Relation(
        "chief-of-state",
        "Government/Executive branch/chief of state",
        person,
        "Who is the chief of state of {place}?",
        "{name} executive branch chief of state",
        identifies="the {kind} whose chief of state is {answer}",
        clue="executive branch chief of state {answer}",
    ),
    Relation(
        "head-of-government",
        "Government/Executive branch/head of government",
        person,
        "Who is the head of government of {place}?",
        "{name} executive branch head of government",
        identifies="the {kind} whose head of government is {answer}",
        clue="executive branch head of government {answer}",
    ),
    Relation(
        "internet-code",
        "Communications/Internet country code",
        internet_code,
        "What is the Internet country code of {place}?",
        "{name} Internet country code",
        identifies="the {kind} with the Internet country code {answer}",
        clue="Internet country code {answer}",
    ),
    Relation(
        "aircraft-prefix",
        "Transportation/Civil aircraft registration country code prefix",
        prefix,
        "What is the civil aircraft registration prefix of {place}?",
        "{name} civil aircraft",
        identifies="the {kind} with the civil aircraft registration prefix {answer}",
        clue="civil aircraft prefix {answer}",
    ),
    Relation(
        "anthem",
        "Government/National anthem(s)/title",
        anthem,
        "What is the title of the national anthem of {place}?",
        "{name} national anthem title",
        identifies='the {kind} whose national anthem is "{answer}"',
        clue="national anthem title {answer}",
    ),
    Relation(
        "independence",
        "Government/Independence",
        independence,
        "On what date did {place} become independent?",
        "{name} independence national holiday",
        value=age_of_independence,
        compare="Which became independent earlier, {first} or {second}?",
    ),
    Relation(
        "largest-city",
        "People and Society/Major urban areas - population",
        largest_city,
        "What is the most populous urban area of {place}?",
        "{name} people and society major urban areas",
        identifies="the {kind} whose most populous urban area is {answer}",
        clue="major urban areas population {answer}",
    ),
    Relation(
        "ethnic-group",
        "People and Society/Ethnic groups",
        largest_share,
        "What is the largest ethnic group of {place}?",
        "{name} nationality ethnic groups",
    ),
    Relation(
        "language",
        "People and Society/Languages/Languages",
        official_language,
        "What is the official language of {place}?",
        "{name} people and society languages",
    ),
    Relation(
        "legislature",
        "Government/Legislative branch/legislature name",
        legislature,
        "What is the name of the legislature of {place}?",
        "{name} legislative branch legislature name",
    ),
    Relation(
        "export",
        "Economy/Exports - commodities",
        first_item,
        "By value, what is the top export commodity of {place}?",
        "{name} economy exports commodities",
    ),
    Relation(
        "import",
        "Economy/Imports - commodities",
        first_item,
        "By value, what is the top import commodity of {place}?",
        "{name} economy imports commodities",
    ),
    Relation(
        "crop",
        "Economy/Agricultural products",
        first_item,
        "By tonnage, what is the top agricultural product of {place}?",
        "{name} economy agricultural products",
    ),
    Relation(
        "export-partner",
        "Economy/Exports - partners",
        first_partner,
        "Which country is the largest export partner of {place}?",
        "{name} economy exports partners",
        identifies="the largest export partner of {place}",
        country=True,
    ),
    Relation(
        "import-partner",
        "Economy/Imports - partners",
        first_partner,
        "Which country is the largest import partner of {place}?",
        "{name} economy imports partners",
        identifies="the largest import partner of {place}",
        country=True,
    ),
    Relation(
        "longest-border",
        "Geography/Land boundaries/border countries",
        longest_border,
        "With which country does {place} share its longest land border?",
        "{name} land boundaries border countries",
        identifies="the country with the longest land border with {place}",
        country=True,
    ),
    Relation(
        "former-name",
        "Government/Country name/former",
        former_names,
        "What is a former name of {place}?",
        "{name} country name former",
        identifies='the {kind} once called "{answer}"',
        clue="government country name former {answer}",
    ),
    Relation(
        "divisions",
        "Government/Administrative divisions",
        divisions,
        "How many first-order administrative divisions are there in {place}?",
        "{name} administrative divisions",
    ),
    Relation(
        "government-type",
        "Government/Government type",
        government_type,
        "What is the government type of {place}?",
        "{name} government type",
    ),
    Relation(
        "symbol",
        "Government/National symbol(s)",
        national_symbol,
        "What is the national symbol of {place}?",
        "{name} national symbol",
    ),
    Relation(
        "area",
        "Geography/Area/total",
        _quantity("sq km", "square kilometers"),
        "In square kilometers, what is the total area of {place}?",
        "{name} location area total",
        value=_positive,
        compare="Which has the larger total area, {first} or {second}?",
    ),
    Relation(
        "population",
        "People and Society/Population/total",
        _count,
        "What is the population of {place}?",
        "{name} nationality noun adjective population",
        value=_positive,
        compare="Which has the larger population, {first} or {second}?",
    ),
    Relation(
        "median-age",
        "People and Society/Median age/total",
        _quantity("years"),
        "What is the median age in {place}?",
        "{name} median age",
        value=_positive,
        compare="Which has the higher median age, {first} or {second}?",
    ),
    Relation(
        "life-expectancy",
        "People and Society/Life expectancy at birth/total population",
        _quantity("years"),
        "What is the life expectancy at birth in {place}?",
        "{name} life expectancy at birth",
        value=_positive,
        compare="Which has the higher life expectancy at birth, {first} or {second}?",
    ),
    Relation(
        "coastline",
        "Geography/Coastline",
        _quantity("km", "kilometers"),
        "How long is the coastline of {place}?",
        "{name} geography coastline territorial sea",
        value=_positive,
        compare="Which has the longer coastline, {first} or {second}?",
    ),
    Relation(
        "airports",
        "Transportation/Airports",
        _count,
        "How many airports are there in {place}?",
        "{name} transportation airports",
        value=_positive,
        compare="Which has more airports, {first} or {second}?",
    ),
    Relation(
        "heritage-sites",
        "Government/National heritage/total World Heritage Sites",
        _count,
        "How many World Heritage Sites are there in {place}?",
        "{name} national heritage sites total",
    ),
    Relation(
        "railways",
        "Transportation/Railways/total",
        _quantity("km", "kilometers"),
        "What is the total length of the railways of {place}?",
        "{name} railways total",
        value=_positive,
        compare="Which has the longer railway network, {first} or {second}?",
    ),
)
