"""The house that is spoken to: rooms, floors, devices and things to buy, in two languages.

Values are what the app knows them by; the same in both languages where the grammar says so. Each
device belongs to a domain, which decides what can be said to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class House:
    """Names by which things are called in one language."""

    areas: tuple[str, ...]
    floors: tuple[str, ...]
    devices: Mapping[str, tuple[str, ...]]
    """Domain → names."""
    free_text: Mapping[str, tuple[str, ...]]
    """Slot list of any words → what is said there."""


_ENGLISH = House(
    areas=(
        "kitchen", "living room", "bedroom", "bathroom", "hallway", "garage", "office",
        "dining room", "nursery", "guest room", "basement", "attic", "laundry room", "porch",
    ),
    floors=("first", "ground", "upper"),
    devices={
        "light": ("reading lamp", "ceiling light", "night light", "desk lamp", "fairy lights"),
        "switch": ("coffee machine", "water pump", "christmas tree", "towel warmer"),
        "fan": ("ceiling fan", "tower fan"),
        "cover": ("left curtain", "roof window", "garage door", "patio awning"),
        "lock": ("front door", "back door"),
        "media_player": ("kitchen radio", "television", "record player"),
        "climate": ("thermostat", "floor heating"),
        "vacuum": ("robo", "dusty"),
        "lawn_mower": ("mower",),
        "todo": ("packing", "chores", "holiday"),
        "scene": ("movie night", "dinner party"),
        "script": ("good morning routine", "bedtime routine"),
        "valve": ("sprinkler valve",),
        "sensor": ("outside temperature", "rain gauge"),
        "person": ("Anna", "Paul"),
        "weather": ("home forecast",),
    },
    free_text={
        "shopping_list_item": (
            "milk", "brown bread", "eggs", "washing powder", "two lemons", "olive oil", "coffee",
            "bananas", "cat food", "tomatoes", "rice", "oat flakes", "butter", "light bulbs",
        ),
        "todo_list_item": (
            "sunscreen", "passport", "call the plumber", "water the plants", "clean the oven",
            "book the hotel", "charge the camera", "return the books",
        ),
        "timer_name": ("pizza", "laundry", "tea", "homework", "egg", "nap", "workout"),
        "message": (
            "dinner is ready", "we leave in ten minutes", "the parcel is here", "time for bed",
            "grandma is on the phone",
        ),
        "search_query": (
            "abbey road", "miles davis", "morning jazz", "the four seasons", "radio paradise",
            "kind of blue", "bedtime stories", "daft punk",
        ),
        "zone": ("work", "school", "the gym"),
        "timer_command": ("turn off the reading lamp", "open the garage door"),
    },
)  # fmt: skip

_GERMAN = House(
    areas=(
        "Küche", "Wohnzimmer", "Schlafzimmer", "Badezimmer", "Flur", "Garage", "Büro",
        "Esszimmer", "Kinderzimmer", "Gästezimmer", "Keller", "Dachboden", "Waschküche", "Terrasse",
    ),
    floors=("Erdgeschoss", "Obergeschoss", "Untergeschoss"),
    devices={
        "light": ("Leselampe", "Deckenlicht", "Nachtlicht", "Schreibtischlampe", "Lichterkette"),
        "switch": ("Kaffeemaschine", "Wasserpumpe", "Weihnachtsbaum", "Handtuchwärmer"),
        "fan": ("Deckenventilator", "Turmventilator"),
        "cover": ("linker Vorhang", "Dachfenster", "Garagentor", "Markise"),
        "lock": ("Haustür", "Hintertür"),
        "media_player": ("Küchenradio", "Fernseher", "Plattenspieler"),
        "climate": ("Thermostat", "Fußbodenheizung"),
        "vacuum": ("Robbi", "Staubi"),
        "lawn_mower": ("Mäher",),
        "todo": ("Pack", "Haushalts", "Urlaubs"),
        "scene": ("Filmabend", "Abendessen"),
        "script": ("Morgenroutine", "Abendroutine"),
        "valve": ("Rasensprenger",),
        "sensor": ("Außentemperatur", "Regenmesser"),
        "person": ("Anna", "Paul"),
        "weather": ("Vorhersage",),
    },
    free_text={
        "shopping_list_item": (
            "Milch", "Schwarzbrot", "Eier", "Waschpulver", "zwei Zitronen", "Olivenöl", "Kaffee",
            "Bananen", "Katzenfutter", "Tomaten", "Reis", "Haferflocken", "Butter", "Glühbirnen",
        ),
        "todo_list_item": (
            "Sonnencreme", "Reisepass", "Klempner anrufen", "Pflanzen gießen", "Ofen putzen",
            "Hotel buchen", "Kamera laden", "Bücher zurückbringen",
        ),
        "timer_name": ("Pizza", "Wäsche", "Tee", "Hausaufgaben", "Eier", "Nickerchen", "Sport"),
        "message": (
            "das Essen ist fertig", "wir fahren in zehn Minuten", "das Paket ist da",
            "Zeit fürs Bett", "Oma ist am Telefon",
        ),
        "search_query": (
            "Abbey Road", "Miles Davis", "Morgenjazz", "die vier Jahreszeiten", "Radio Paradise",
            "Kind of Blue", "Gutenachtgeschichten", "Kraftwerk",
        ),
        "zone": ("Arbeit", "Schule"),
        "timer_command": ("Leselampe ausschalten", "Garagentor öffnen"),
    },
)  # fmt: skip

HOUSES: Mapping[str, House] = {"en": _ENGLISH, "de": _GERMAN}
"""By language."""
