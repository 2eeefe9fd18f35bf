"""The household as data: rooms, furniture, things, and what goes where.

Plain tables, no behaviour beyond reading them. The vocabulary and the containment relations are those of
ALFRED (Shridhar et al., 2020, arXiv 1912.01734), which took them from the AI2-THOR simulator, so that a
generated game speaks the language of the official ones. Counts and likelihoods are our own.

Names are the simulator's (``SinkBasin``); an agent reads them lower-cased and numbered (``sinkbasin 1``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_TABLE = (
    "AlarmClock Apple BaseballBat BasketBall Book Bowl Box Bread ButterKnife CD Candle CellPhone Cloth "
    "CreditCard Cup DishSponge Egg Fork Glassbottle HandTowel Kettle KeyChain Knife Ladle Laptop Lettuce "
    "Mug Newspaper Pan PaperTowel Pen Pencil PepperShaker Plate Pot Potato RemoteControl SaltShaker SoapBar "
    "SoapBottle Spatula Spoon SprayBottle Statue TennisRacket TissueBox ToiletPaper ToiletPaperRoll Tomato "
    "Vase Watch WateringCan WineBottle"
)
_SEAT = "BasketBall Book Box CellPhone Cloth CreditCard KeyChain Laptop Newspaper Pillow RemoteControl"
_DRESSER = (
    "AlarmClock BasketBall Book Bowl Box CD Candle CellPhone Cloth CreditCard Cup Glassbottle KeyChain "
    "Laptop Mug Newspaper Pen Pencil Plate RemoteControl SprayBottle Statue TennisRacket TissueBox "
    "ToiletPaper ToiletPaperRoll Vase Watch WateringCan WineBottle"
)
_WASHING = "Cloth DishSponge HandTowel SoapBar"


def _names(words: str) -> tuple[str, ...]:
    return tuple(words.split())


def _sets(table: Mapping[str, str]) -> Mapping[str, frozenset[str]]:
    return MappingProxyType({key: frozenset(_names(words)) for key, words in table.items()})


CAN_CONTAIN: Mapping[str, frozenset[str]] = _sets(
    {
        "ArmChair": _SEAT,
        "BathtubBasin": _WASHING,
        "Bed": "BaseballBat BasketBall Book CellPhone Laptop Newspaper Pillow TennisRacket",
        "Cabinet": (
            "Book Bowl Box CD Candle Cloth Cup DishSponge Glassbottle HandTowel Kettle Ladle Mug Newspaper "
            "Pan PepperShaker Plate Plunger Pot SaltShaker SoapBar SoapBottle SprayBottle TissueBox "
            "ToiletPaper ToiletPaperRoll Vase WateringCan WineBottle"
        ),
        "Cart": (
            "Candle Cloth DishSponge HandTowel Mug PaperTowel Plunger SoapBar SoapBottle SprayBottle Statue "
            "TissueBox ToiletPaper ToiletPaperRoll Vase"
        ),
        "CoffeeMachine": "Mug",
        "CoffeeTable": _TABLE,
        "CounterTop": _TABLE,
        "Desk": _DRESSER + " SoapBottle",
        "DiningTable": _TABLE,
        "Drawer": (
            "Book ButterKnife CD Candle CellPhone Cloth CreditCard DishSponge Fork HandTowel KeyChain Knife "
            "Ladle Newspaper Pen Pencil PepperShaker RemoteControl SaltShaker SoapBar SoapBottle Spatula "
            "Spoon SprayBottle TissueBox ToiletPaper ToiletPaperRoll Watch WateringCan"
        ),
        "Dresser": _DRESSER,
        "Fridge": "Apple Bowl Bread Cup Egg Glassbottle Lettuce Mug Pan Plate Pot Potato Tomato WineBottle",
        "GarbageCan": (
            "Apple Bread CD Cloth DishSponge Egg HandTowel Lettuce Newspaper PaperTowel Pen Pencil Potato "
            "SoapBar SoapBottle SprayBottle TissueBox ToiletPaper ToiletPaperRoll Tomato WineBottle"
        ),
        "HandTowelHolder": "HandTowel",
        "LaundryHamper": "Cloth",
        "Microwave": "Apple Bowl Bread Cup Egg Glassbottle Mug Plate Potato Tomato",
        "Ottoman": _SEAT,
        "Safe": "CD CellPhone CreditCard KeyChain Statue Vase Watch",
        "Shelf": (
            "AlarmClock Book Bowl Box CD Candle CellPhone Cloth CreditCard Cup DishSponge Glassbottle "
            "HandTowel Kettle KeyChain Mug Newspaper PaperTowel Pen Pencil PepperShaker Plate Pot "
            "RemoteControl SaltShaker SoapBar SoapBottle SprayBottle Statue TissueBox ToiletPaper "
            "ToiletPaperRoll Vase Watch WateringCan WineBottle"
        ),
        "SideTable": _TABLE,
        "SinkBasin": (
            "Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Glassbottle HandTowel Kettle Knife Ladle "
            "Lettuce Mug Pan Plate Pot Potato SoapBar Spatula Spoon Tomato"
        ),
        "Sofa": _SEAT,
        "StoveBurner": "Kettle Pan Pot",
        "TVStand": "TissueBox",
        "Toaster": "",
        "Toilet": (
            "Candle Cloth DishSponge HandTowel Newspaper PaperTowel SoapBar SoapBottle SprayBottle "
            "TissueBox ToiletPaper ToiletPaperRoll"
        ),
        "ToiletPaperHanger": "ToiletPaper ToiletPaperRoll",
        "TowelHolder": "Towel",
    }
)
"""Receptacle type -> the object types that may be put in or on it (``canContain``)."""

OPENABLE: frozenset[str] = frozenset({"Cabinet", "Drawer", "Fridge", "Microwave", "Safe"})
"""Receptacle types with a door or a front. All start closed; some cabinets have none (as in ALFRED's scenes)."""

CLEANABLE: frozenset[str] = frozenset(
    _names(
        "Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Kettle Knife Ladle Lettuce Mug Pan Plate Pot "
        "Potato SoapBar Spatula Spoon Tomato"
    )
)
HEATABLE: frozenset[str] = frozenset(_names("Apple Bread Cup Egg Mug Plate Potato Tomato"))
COOLABLE: frozenset[str] = frozenset(
    _names("Apple Bowl Bread Cup Egg Lettuce Mug Pan Plate Pot Potato Tomato WineBottle")
)
SLICEABLE: frozenset[str] = frozenset(_names("Apple Bread Egg Lettuce Potato Tomato"))
TOGGLEABLE: frozenset[str] = frozenset({"DeskLamp", "FloorLamp"})
RECEPTACLE_OBJECTS: frozenset[str] = frozenset(_names("Bowl Box Cup Mug Pan Plate Pot"))
"""Things that count as receptacles themselves (``isReceptacleObject``): examining one tells what is in it."""

APPLIANCE: Mapping[str, str] = MappingProxyType(
    {
        "pick_clean_then_place_in_recep": "SinkBasin",
        "pick_heat_then_place_in_recep": "Microwave",
        "pick_cool_then_place_in_recep": "Fridge",
    }
)
"""Task type -> the receptacle type that changes the object."""

TASK_PROPERTY: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "pick_clean_then_place_in_recep": CLEANABLE,
        "pick_heat_then_place_in_recep": HEATABLE,
        "pick_cool_then_place_in_recep": COOLABLE,
    }
)
"""Task type -> the object types it can be asked of."""

TASK_TEMPLATES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "pick_and_place_simple": ("put a {obj} in {recep}", "put some {obj} on {recep}"),
        "look_at_obj_in_light": ("look at {obj} under the {lamp}", "examine the {obj} with the {lamp}"),
        "pick_clean_then_place_in_recep": ("put a clean {obj} in {recep}", "clean some {obj} and put it in {recep}"),
        "pick_heat_then_place_in_recep": ("put a hot {obj} in {recep}", "heat some {obj} and put it in {recep}"),
        "pick_cool_then_place_in_recep": ("put a cool {obj} in {recep}", "cool some {obj} and put it in {recep}"),
        "pick_two_obj_and_place": ("put two {obj} in {recep}", "find two {obj} and put them in {recep}"),
    }
)
"""Task type -> its two wordings; the names filled in are lower-cased type names."""

ROOMINESS: Mapping[str, int] = MappingProxyType(
    {
        "CounterTop": 12,
        "DiningTable": 10,
        "CoffeeTable": 7,
        "Desk": 8,
        "SideTable": 6,
        "Dresser": 6,
        "Bed": 5,
        "Sofa": 5,
        "ArmChair": 3,
        "Shelf": 4,
        "Fridge": 6,
        "SinkBasin": 4,
        "GarbageCan": 3,
        "Cart": 4,
        "Toilet": 3,
        "LaundryHamper": 4,
        "BathtubBasin": 3,
        "Microwave": 2,
        "CoffeeMachine": 1,
        "StoveBurner": 1,
        "ToiletPaperHanger": 1,
        "TowelHolder": 1,
        "HandTowelHolder": 1,
    }
)
"""Receptacle type -> how many things the generator puts there at most; 3 where not listed."""

TYPICAL: Mapping[str, frozenset[str]] = _sets(
    {
        "AlarmClock": "Desk SideTable Dresser",
        "Apple": "CounterTop Fridge DiningTable",
        "BaseballBat": "Bed",
        "BasketBall": "Bed Desk",
        "Book": "Bed Desk Shelf CoffeeTable Sofa",
        "Bowl": "Cabinet CounterTop DiningTable",
        "Box": "Sofa CoffeeTable SideTable Shelf",
        "Bread": "CounterTop DiningTable",
        "ButterKnife": "Drawer CounterTop",
        "CD": "Desk Drawer Safe",
        "Candle": "Toilet Shelf Cabinet",
        "CellPhone": "Desk Bed SideTable Sofa",
        "Cloth": "Cabinet LaundryHamper BathtubBasin Drawer",
        "CreditCard": "Desk SideTable Safe Drawer",
        "Cup": "Cabinet CounterTop",
        "DishSponge": "SinkBasin Cabinet",
        "Egg": "Fridge CounterTop",
        "Fork": "Drawer CounterTop",
        "Glassbottle": "CounterTop Cabinet",
        "HandTowel": "HandTowelHolder",
        "Kettle": "StoveBurner Cabinet",
        "KeyChain": "SideTable Desk Safe Sofa",
        "Knife": "CounterTop Drawer",
        "Ladle": "Drawer CounterTop",
        "Laptop": "Desk Bed CoffeeTable Sofa",
        "Lettuce": "Fridge CounterTop",
        "Mug": "Cabinet CoffeeMachine CounterTop Desk",
        "Newspaper": "CoffeeTable Sofa ArmChair",
        "Pan": "StoveBurner Cabinet",
        "PaperTowel": "CounterTop",
        "Pen": "Desk Drawer",
        "Pencil": "Desk Drawer",
        "PepperShaker": "CounterTop Cabinet Drawer",
        "Pillow": "Bed Sofa ArmChair",
        "Plate": "Cabinet CounterTop DiningTable",
        "Plunger": "Cabinet",
        "Pot": "StoveBurner Cabinet",
        "Potato": "CounterTop Fridge",
        "RemoteControl": "Sofa ArmChair CoffeeTable",
        "SaltShaker": "CounterTop Cabinet Drawer",
        "SoapBar": "BathtubBasin SinkBasin Toilet",
        "SoapBottle": "CounterTop Cabinet Toilet",
        "Spatula": "Drawer CounterTop",
        "Spoon": "Drawer CounterTop",
        "SprayBottle": "Cabinet Shelf Toilet",
        "Statue": "Shelf CoffeeTable Dresser",
        "TennisRacket": "Bed Dresser",
        "TissueBox": "SideTable Toilet CoffeeTable",
        "ToiletPaper": "ToiletPaperHanger Cabinet Toilet",
        "ToiletPaperRoll": "ToiletPaperHanger Cabinet",
        "Tomato": "Fridge CounterTop",
        "Towel": "TowelHolder",
        "Vase": "Shelf CoffeeTable Cabinet",
        "Watch": "SideTable Dresser Safe",
        "WateringCan": "Shelf SideTable",
        "WineBottle": "Fridge Cabinet CounterTop",
        "DeskLamp": "Desk SideTable Dresser",
        "FloorLamp": "SideTable",
    }
)
"""Object type -> the receptacle types where a person would look first."""

LAMP_SURFACES: frozenset[str] = frozenset({"Desk", "SideTable", "Dresser", "Shelf", "CoffeeTable"})
"""Where lamps stand. They cannot be carried, so ``canContain`` says nothing of them."""


@dataclass(frozen=True, slots=True)
class Room:
    """One kind of room.

    Attributes:
        scenes: ALFRED's scene numbers for this kind.
        receptacles: receptacle type -> (fewest, most) in a room of real size; the sums are 20 and at most 40.
        small: receptacle type -> (fewest, most) in a small room; the sums are 6 and at most 10.
        objects: the types of movable things found there.
        fixtures: things that are there and can neither be seen nor used in the text (chairs, windows, ...).
        lamps: whether there are lamps to look at things under.
    """

    scenes: range
    receptacles: Mapping[str, tuple[int, int]]
    small: Mapping[str, tuple[int, int]]
    objects: tuple[str, ...]
    fixtures: tuple[str, ...]
    lamps: bool = False


ROOMS: Mapping[str, Room] = MappingProxyType(
    {
        "kitchen": Room(
            scenes=range(1, 31),
            receptacles={
                "Cabinet": (5, 13),
                "CoffeeMachine": (1, 1),
                "CounterTop": (2, 3),
                "DiningTable": (0, 1),
                "Drawer": (3, 10),
                "Fridge": (1, 1),
                "GarbageCan": (1, 1),
                "Microwave": (1, 1),
                "Shelf": (0, 2),
                "SideTable": (0, 1),
                "SinkBasin": (1, 1),
                "StoveBurner": (4, 4),
                "Toaster": (1, 1),
            },
            small={
                "Cabinet": (1, 2),
                "CounterTop": (1, 1),
                "DiningTable": (0, 1),
                "Drawer": (1, 2),
                "Fridge": (1, 1),
                "GarbageCan": (0, 1),
                "Microwave": (1, 1),
                "SinkBasin": (1, 1),
            },
            objects=_names(
                "Apple Book Bowl Bread ButterKnife Cup DishSponge Egg Fork Glassbottle Kettle Knife Ladle "
                "Lettuce Mug Pan PaperTowel PepperShaker Plate Pot Potato SaltShaker SoapBottle Spatula "
                "Spoon SprayBottle Statue Tomato Vase WineBottle"
            ),
            fixtures=("Chair", "LightSwitch", "Sink", "StoveKnob", "Window"),
        ),
        "livingroom": Room(
            scenes=range(201, 231),
            receptacles={
                "ArmChair": (1, 3),
                "Cabinet": (3, 5),
                "CoffeeTable": (1, 2),
                "Desk": (0, 1),
                "DiningTable": (0, 1),
                "Drawer": (6, 9),
                "Dresser": (0, 1),
                "GarbageCan": (1, 1),
                "Ottoman": (0, 1),
                "Safe": (0, 1),
                "Shelf": (4, 8),
                "SideTable": (2, 3),
                "Sofa": (1, 2),
                "TVStand": (1, 1),
            },
            small={
                "ArmChair": (1, 1),
                "CoffeeTable": (1, 1),
                "Drawer": (1, 2),
                "GarbageCan": (0, 1),
                "Safe": (0, 1),
                "Shelf": (1, 2),
                "SideTable": (1, 1),
                "Sofa": (1, 1),
            },
            objects=_names(
                "Book Bowl Box Candle CellPhone CreditCard KeyChain Laptop Newspaper Pen Pencil Pillow "
                "Plate RemoteControl Statue TissueBox Vase Watch WateringCan"
            ),
            fixtures=("Chair", "Curtains", "HousePlant", "LightSwitch", "Painting", "Television", "Window"),
            lamps=True,
        ),
        "bedroom": Room(
            scenes=range(301, 331),
            receptacles={
                "ArmChair": (0, 1),
                "Bed": (1, 2),
                "Cabinet": (2, 4),
                "Desk": (1, 2),
                "Drawer": (8, 13),
                "Dresser": (1, 1),
                "GarbageCan": (1, 1),
                "LaundryHamper": (0, 1),
                "Ottoman": (0, 1),
                "Safe": (0, 1),
                "Shelf": (4, 8),
                "SideTable": (2, 3),
                "Sofa": (0, 1),
            },
            small={
                "Bed": (1, 1),
                "Desk": (1, 1),
                "Drawer": (1, 2),
                "Dresser": (0, 1),
                "GarbageCan": (1, 1),
                "Safe": (0, 1),
                "Shelf": (1, 2),
                "SideTable": (1, 1),
            },
            objects=_names(
                "AlarmClock BaseballBat BasketBall Book Bowl CD CellPhone Cloth CreditCard KeyChain Laptop "
                "Mug Pen Pencil Pillow RemoteControl Statue TennisRacket TissueBox Vase Watch"
            ),
            fixtures=("Blinds", "Chair", "Curtains", "LightSwitch", "Mirror", "Painting", "Poster", "Window"),
            lamps=True,
        ),
        "bathroom": Room(
            scenes=range(401, 431),
            receptacles={
                "BathtubBasin": (0, 1),
                "Cabinet": (5, 9),
                "Cart": (0, 1),
                "CounterTop": (1, 2),
                "Drawer": (5, 9),
                "Dresser": (0, 1),
                "GarbageCan": (1, 1),
                "HandTowelHolder": (1, 2),
                "LaundryHamper": (0, 1),
                "Shelf": (3, 5),
                "SideTable": (0, 1),
                "SinkBasin": (1, 2),
                "Toilet": (1, 1),
                "ToiletPaperHanger": (1, 1),
                "TowelHolder": (1, 3),
            },
            small={
                "BathtubBasin": (0, 1),
                "Cabinet": (1, 2),
                "CounterTop": (1, 1),
                "Drawer": (1, 2),
                "GarbageCan": (1, 1),
                "Shelf": (0, 1),
                "SinkBasin": (1, 1),
                "Toilet": (1, 1),
            },
            objects=_names(
                "Candle Cloth DishSponge HandTowel Newspaper PaperTowel Plunger SoapBar SoapBottle "
                "SprayBottle TissueBox ToiletPaper ToiletPaperRoll Towel Vase WateringCan"
            ),
            fixtures=("LightSwitch", "Mirror", "Painting", "ScrubBrush", "ShowerDoor", "Sink", "Window"),
        ),
    }
)
"""Room kind -> what is in it."""

TASK_ROOMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "pick_and_place_simple": ("kitchen", "livingroom", "bedroom", "bathroom"),
        "look_at_obj_in_light": ("livingroom", "bedroom"),
        "pick_clean_then_place_in_recep": ("kitchen", "bathroom"),
        "pick_heat_then_place_in_recep": ("kitchen",),
        "pick_cool_then_place_in_recep": ("kitchen",),
        "pick_two_obj_and_place": ("kitchen", "livingroom", "bedroom", "bathroom"),
    }
)
"""Task type -> the rooms it can be asked in."""

TYPE_NAMES: Mapping[str, str] = MappingProxyType(
    {
        name.lower(): name
        for name in sorted(
            {
                *CAN_CONTAIN,
                *(o for held in CAN_CONTAIN.values() for o in held),
                *TOGGLEABLE,
                *(f for room in ROOMS.values() for f in room.fixtures),
            }
        )
    }
)
"""Lower-cased type name -> the name as ALFRED spells it."""


def likelihood(receptacle_type: str, object_type: str) -> int:
    """How likely one such thing is to be found in one such receptacle, as an integer weight.

    The weight is 0 where the thing does not fit.

    Both names as ALFRED spells them. The generator places by these weights and the searching expert searches
    by them, as people do: by what is usual, and by how much a place holds.
    """
    if object_type in TOGGLEABLE:
        fits = receptacle_type in LAMP_SURFACES
    else:
        fits = object_type in CAN_CONTAIN.get(receptacle_type, ())
    if not fits:
        return 0
    usual = 2 if receptacle_type in TYPICAL.get(object_type, ()) else 1
    roomy = 2 if ROOMINESS.get(receptacle_type, 3) > 3 else 1
    return usual * roomy
