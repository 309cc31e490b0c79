"""The sentences of the corpus: a seeded grammar over a few hundred words, each as people write it and as it is said.

Written forms hold digits, currency, percent, ordinals, titles, contractions and British spellings, so that text
normalisers have something to do.  No colon or bracket appears, since Whisper never generates those signs.

    >>> sentences.sample(random.Random(1))
    Sentence(written='Turn down the lamp in the garage.', spoken='turn down the lamp in the garage')
"""

import random
import re
from dataclasses import dataclass


def _list(text: str, sign: str | None = None) -> list[str]:
    return text.split(sign)


ONES = _list(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
TENS = _list("twenty thirty forty fifty sixty seventy eighty ninety")
ORDINALS = {1: "first", 2: "second", 3: "third", 5: "fifth", 8: "eighth", 9: "ninth", 12: "twelfth"}
MONTHS = _list("January February March April May June July August September October November December")
DAYS = _list("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
NAMES = _list("Anna Peter Maria Tom Sarah David Emma Paul Lucy Jack Helen Robert")
TITLED = _list("Mr. Smith|Mrs. Jones|Dr. Brown|Mr. Taylor|Dr. Wilson|Mrs. Clark", "|")
PLACES = _list("London Paris Berlin Rome Boston Tokyo Madrid Chicago Dublin Oslo")
ROOMS = _list("kitchen bedroom bathroom office garage garden hall cellar")
DEVICES = _list("light lamp radio heater fan television oven alarm music printer")
COLOURS = _list("red green blue yellow black white brown orange grey purple")
SIZES = _list("big small old new long short heavy little broken empty")
THINGS = _list(
    "book letter umbrella bicycle table window box bottle ticket camera basket picture blanket ladder hammer jacket "
    "mirror pencil phone key"
)
FOODS = _list("apples bread cheese coffee milk rice soup potatoes tomatoes sugar butter eggs")
PEOPLE = _list("farmer teacher doctor driver student baker painter sailor nurse captain")
ANIMALS = _list("dog cat horse bird rabbit mouse sheep fox")
PAST = _list("bought found lost carried painted opened washed sold moved forgot")
WENT = _list("walked ran drove travelled came returned")
SPOTS = _list("station market river bridge school hospital library harbour museum airport")
WEATHER = _list("rain snow sunshine wind fog")
ADVERBS = _list("today tomorrow tonight yesterday again soon slowly quickly carefully early late")
SHORT = _list(
    "Yes, please.|No, thank you.|Stop.|Go back.|Try again.|Good morning.|Good night.|Please wait.|That's right.|"
    "I don't know.|Never mind.|Help me, please.|Of course.|Not yet.|See you soon.",
    "|",
)


@dataclass(frozen=True)
class Sentence:
    """``written`` is the reference text, ``spoken`` is what the synthesiser is given."""

    written: str
    spoken: str


def cardinal(value: int) -> str:
    """0 to 9999 in words, as British English reads it without the "and"."""
    if value < 20:
        return ONES[value]
    if value < 100:
        return TENS[value // 10 - 2] + (f" {ONES[value % 10]}" if value % 10 else "")
    if value < 1000:
        return f"{ONES[value // 100]} hundred" + (f" {cardinal(value % 100)}" if value % 100 else "")
    return f"{ONES[value // 1000]} thousand" + (f" {cardinal(value % 1000)}" if value % 1000 else "")


def ordinal(value: int) -> str:
    """1 to 31 in words."""
    if value in ORDINALS:
        return ORDINALS[value]
    if value < 20:
        return f"{ONES[value]}th"
    if value % 10 == 0:
        return TENS[value // 10 - 2].replace("y", "ieth")
    return f"{TENS[value // 10 - 2]} {ordinal(value % 10)}"


def year(value: int) -> str:
    """1900 to 2029 in words."""
    if value // 100 == 20:
        return f"two thousand {cardinal(value % 100)}" if 0 < value % 100 < 10 else _pair(value)
    return _pair(value)


def _pair(value: int) -> str:
    high, low = divmod(value, 100)
    if low == 0:
        return "two thousand" if high == 20 else f"{cardinal(high)} hundred"
    return f"{cardinal(high)} " + (f"oh {cardinal(low)}" if low < 10 else cardinal(low))


def _suffix(value: int) -> str:
    return "th" if 10 < value < 20 else {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")


class _Writer:
    """Collects the two forms side by side; ``add(written, spoken)`` where they differ."""

    def __init__(self):
        self.written, self.spoken = [], []

    def add(self, written: str, spoken: str | None = None) -> "_Writer":
        self.written.append(written)
        self.spoken.append(written if spoken is None else spoken)
        return self

    def end(self, sign: str = ".") -> Sentence:
        written = " ".join(self.written)
        written = written[0].upper() + written[1:]
        spoken = " ".join(self.spoken).replace("Mr.", "mister").replace("Mrs.", "missus").replace("Dr.", "doctor")
        return Sentence(written if written.endswith(".") and sign == "." else written + sign, spoken.strip("."))


def _number(generator: random.Random, low: int, high: int) -> tuple[str, str]:
    value = generator.randint(low, high)
    return str(value), cardinal(value)


def _hundreds(generator: random.Random) -> tuple[str, str]:
    """Round numbers above 100: whole tokens of the set, so few that each is heard often."""
    value = generator.choice((*range(100, 1000, 10), *range(1000, 10000, 500)))
    return str(value), cardinal(value)


def _hour(generator: random.Random) -> tuple[str, str]:
    """A time of day: "7 p.m.", "7.30", "half past 7" or "noon"."""
    hour = generator.randint(1, 12)
    kind = generator.random()
    if kind < 0.3:
        half = generator.choice("ap")
        return f"{hour} {half}.m.", f"{cardinal(hour)} {half} m"
    if kind < 0.65:
        minute = generator.choice((10, 15, 20, 25, 30, 40, 45, 50))
        return f"{hour}.{minute}", f"{cardinal(hour)} {cardinal(minute)}"
    if kind < 0.9:
        part = generator.choice(("half past", "quarter past", "quarter to"))
        return f"{part} {hour}", f"{part} {cardinal(hour)}"
    return generator.choice((("noon",) * 2, ("midnight",) * 2))


def _date(generator: random.Random) -> tuple[str, str]:
    month, day = generator.choice(MONTHS), generator.randint(1, 28)
    if generator.random() < 0.5:
        return f"{month} {day}{_suffix(day)}", f"{month} {ordinal(day)}"
    return f"the {day}{_suffix(day)} of {month}", f"the {ordinal(day)} of {month}"


def _thing(generator: random.Random) -> str:
    words = [generator.choice(THINGS)]
    if generator.random() < 0.5:
        words.insert(0, generator.choice(COLOURS))
    elif generator.random() < 0.5:
        words.insert(0, generator.choice(SIZES))
    return " ".join(words)


def _person(generator: random.Random) -> str:
    kind = generator.random()
    if kind < 0.4:
        return generator.choice(NAMES)
    if kind < 0.55:
        return generator.choice(TITLED)
    return f"the {generator.choice(PEOPLE)}"


def _command(g: random.Random) -> Sentence:
    device, room = g.choice(DEVICES), g.choice(ROOMS)
    forms = (
        lambda w: w.add(f"turn {g.choice(('on', 'off'))} the {room} {device}").end(),
        lambda w: w.add(f"turn {g.choice(('up', 'down'))} the {device} in the {room}").end(),
        lambda w: w.add(f"please switch {g.choice(('on', 'off'))} the {device}").end(),
        lambda w: w.add(f"set the {room} {device} to").add(*_number(g, 1, 30)).end(),
        lambda w: w.add(f"make the {room} light {g.choice(COLOURS)}").end(),
        lambda w: w.add(f"{g.choice(('open', 'close', 'lock'))} the {room} {g.choice(('door', 'window'))}").end(),
        lambda w: w.add("set a timer for").add(*_number(g, 2, 59)).add(g.choice(("minutes", "seconds"))).end(),
        lambda w: w.add("wake me up at").add(*_hour(g)).end(),
        lambda w: w.add(f"call {_person(g)}").end(),
        lambda w: w.add(f"send the {_thing(g)} to {_person(g)}").end(),
        lambda w: w.add(f"remind me to buy {g.choice(FOODS)} {g.choice(('today', 'tomorrow', 'tonight'))}").end(),
    )
    return g.choice(forms)(_Writer())


def _numbers(g: random.Random) -> Sentence:
    digits = [g.randint(0, 9) for _ in range(g.randint(3, 4))]
    price = _number(g, 2, 99)
    share = _number(g, 1, 99)
    forms = (
        lambda w: w.add("the code is").add(" ".join(map(str, digits)), " ".join(ONES[d] for d in digits)).end(),
        lambda w: w.add(f"the {_thing(g)} costs").add(f"${price[0]}", f"{price[1]} dollars").end(),
        lambda w: w.add("we need").add(*_hundreds(g)).add(g.choice(("boxes", "tickets", "eggs", "apples"))).end(),
        lambda w: w.add(f"the {g.choice(('answer', 'number'))} is").add(*_number(g, 1, 99)).end(),
        lambda w: w.add("about").add(f"{share[0]}%", f"{share[1]} percent").add(f"of the {g.choice(FOODS)} is gone").end(),
        lambda w: w.add(f"the bus to the {g.choice(SPOTS)} is number").add(*_number(g, 1, 99)).end(),
        lambda w: w.add("they sold").add(*_hundreds(g)).add(g.choice(("books", "bottles", "tickets"))).end(),
        lambda w: w.add("open the book at page").add(*_number(g, 1, 99)).end(),
    )
    return g.choice(forms)(_Writer())


def _dates(g: random.Random) -> Sentence:
    born = g.randint(1950, 2025)
    forms = (
        lambda w: w.add(f"the meeting is on {g.choice(DAYS)} at").add(*_hour(g)).end(),
        lambda w: w.add("my birthday is on").add(*_date(g)).end(),
        lambda w: w.add(f"{_person(g)} arrives on").add(*_date(g)).end(),
        lambda w: w.add("the train leaves at").add(*_hour(g)).end(),
        lambda w: w.add(f"the {g.choice(('house', 'shop', *SPOTS[2:]))} was built in").add(str(born), year(born)).end(),
        lambda w: w.add(f"we'll be in {g.choice(PLACES)} until {g.choice(DAYS)}").end(),
        lambda w: w.add("the shop opens at").add(*_hour(g)).add(f"on {g.choice(DAYS)}").end(),
        lambda w: w.add("today is").add(*_date(g)).end(),
    )
    return g.choice(forms)(_Writer())


def _question(g: random.Random) -> Sentence:
    forms = (
        lambda w: w.add(f"what's the weather like in {g.choice(PLACES)}"),
        lambda w: w.add(f"where is my {_thing(g)}"),
        lambda w: w.add(f"who {g.choice(PAST)} the {_thing(g)}"),
        lambda w: w.add("how far is it to the").add(g.choice(SPOTS)),
        lambda w: w.add(f"can you see the {g.choice(COLOURS)} {g.choice(ANIMALS)}"),
        lambda w: w.add(f"did {_person(g)} go to the {g.choice(SPOTS)}"),
        lambda w: w.add(f"will there be {g.choice(WEATHER)} on {g.choice(DAYS)}"),
        lambda w: w.add("what is your favourite colour"),
        lambda w: w.add("how many").add(g.choice(ANIMALS[:5]) + "s").add("are there"),
        lambda w: w.add(f"is the {g.choice(ROOMS)} {g.choice(('door', 'window'))} open"),
    )
    return g.choice(forms)(_Writer()).end("?")


def _story(g: random.Random) -> Sentence:
    animal = f"the {g.choice(SIZES[:6] + COLOURS)} {g.choice(ANIMALS)}"
    forms = (
        lambda w: w.add(f"{_person(g)} {g.choice(PAST)} the {_thing(g)}"),
        lambda w: w.add(f"{_person(g)} {g.choice(PAST)} a {g.choice(SIZES[:1] + COLOURS)} {g.choice(THINGS[:1] + THINGS[3:])}"),
        lambda w: w.add(f"{_person(g)} {g.choice(WENT)} to the {g.choice(SPOTS)} {g.choice(ADVERBS)}"),
        lambda w: w.add(f"{animal} {g.choice(('slept', 'waited', 'sat'))} under the {g.choice(('table', 'bridge', 'tree'))}"),
        lambda w: w.add(f"{animal} {g.choice(WENT)} past the {g.choice(SPOTS)}"),
        lambda w: w.add(f"there's {g.choice(WEATHER)} in {g.choice(PLACES)} {g.choice(ADVERBS[:3])}"),
        lambda w: w.add(f"I'd like some {g.choice(FOODS)} and {g.choice(FOODS)}"),
        lambda w: w.add(f"we don't have any {g.choice(FOODS)}"),
        lambda w: w.add(f"the {g.choice(THINGS)} is behind the {g.choice(SIZES)} {g.choice(THINGS)}"),
        lambda w: w.add(f"she put the {_thing(g)} on the {g.choice(('table', 'chair', 'floor'))}"),
        lambda w: w.add(f"he can't open the {_thing(g)}"),
        lambda w: w.add(f"I saw {_person(g)} at the {g.choice(SPOTS)}"),
    )
    return g.choice(forms)(_Writer()).end()


def _short(g: random.Random) -> Sentence:
    if g.random() < 0.5:
        written = g.choice(SHORT)
        return Sentence(written, written.rstrip("."))
    name = g.choice(NAMES + TITLED)
    greeting = g.choice(("hello", "good morning", "good night", "thank you", "welcome back", "goodbye"))
    return _Writer().add(f"{greeting}, {name}").end()


def _counting(g: random.Random) -> Sentence:
    """Words whose few other sentences the samples hold; for training only."""
    animals = g.choice(ANIMALS[:5]) + "s"
    forms = (
        lambda w: w.add("there are").add(*_number(g, 2, 99)).add(f"{animals} in the {g.choice(ROOMS)}").end(),
        lambda w: w.add(f"how many {animals} are in the {g.choice(ROOMS)}").end("?"),
        lambda w: w.add(f"the {animals} are at the {g.choice(SPOTS)}").end(),
        lambda w: w.add(f"how many {g.choice(('books', 'tickets', 'bottles'))} are there").end("?"),
    )
    return g.choice(forms)(_Writer())


_KINDS = {_command: 26, _numbers: 15, _dates: 15, _question: 18, _story: 26, _short: 4}


def sample(generator: random.Random) -> Sentence:
    """One random sentence of 1 to about 10 spoken words."""
    kind = generator.choices(list(_KINDS), list(_KINDS.values()))[0]
    return kind(generator)


def frequent(seed: str, count: int, forbidden: set[str]) -> list[Sentence]:
    """``count`` sentences as often as the grammar draws them, so short patterns recur; none whose key is in ``forbidden``."""
    generator, found = random.Random(seed), []
    while len(found) < count:
        sentence = _counting(generator) if generator.random() < 0.04 else sample(generator)
        if key(sentence.written) not in forbidden:
            found.append(sentence)
    return found


def key(written: str) -> str:
    """What makes two sentences the same: their letters and digits, without case or punctuation."""
    return " ".join(re.findall(r"[a-z0-9$%']+", written.lower()))


def distinct(seed: str, count: int, forbidden: set[str] = frozenset(), phrases: bool = True) -> list[Sentence]:
    """``count`` different sentences for ``seed``, none whose key is in ``forbidden``.

    Without ``phrases`` no fixed phrase is drawn ("Never mind."), whose words occur in no other sentence.
    """
    generator, seen, found = random.Random(seed), set(forbidden), []
    while len(found) < count:
        sentence = sample(generator)
        if not phrases and (sentence.written in SHORT or "favourite" in sentence.written):
            continue
        name = key(sentence.written)
        if name not in seen:
            seen.add(name)
            found.append(sentence)
    return found
