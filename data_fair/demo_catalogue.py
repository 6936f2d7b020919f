"""The invented catalogue of the demo store: categories, product types, brands, authors, titles and texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Product types of each category: "name|other name|... > what is often bought next, and again".
PRODUCTS = {
    "Outdoor": (
        "tent|dome tent|trekking tent > sleeping bag, camping stove",
        "sleeping bag|mummy bag > sleeping mat",
        "sleeping mat|camping mat > headlamp",
        "camping stove|burner > cooking pot",
        "cooking pot|camp kettle > camping cutlery",
        "camping cutlery|spoon and fork set > headlamp",
        "backpack|hiking pack > rain cover",
        "rain cover|pack cover > headlamp",
        "headlamp|camp lantern > backpack",
    ),
    "Kitchen": (
        "chef's knife|kitchen knife > sharpening stone, cutting board",
        "sharpening stone|whetstone > cutting board",
        "cutting board|chopping board > frying pan",
        "frying pan|skillet > pan lid, spatula",
        "pan lid|glass lid > spatula",
        "spatula|turner > chef's knife",
        "hand mixer|stand mixer > mixing bowl",
        "mixing bowl|bowl set > baking tin",
        "baking tin|loaf tin|cake tin > spatula",
    ),
    "Coffee": (
        "espresso machine|espresso maker > coffee grinder, milk jug",
        "coffee grinder|burr grinder > coffee beans",
        "coffee beans|whole beans|house roast > filter papers, coffee cup",
        "pour-over dripper|hand dripper > filter papers",
        "filter papers|paper filters > coffee beans",
        "milk jug|frothing jug > coffee cup",
        "coffee cup|cup and saucer > descaler",
        "descaler|cleaning tablets > coffee beans",
    ),
    "Cycling": (
        "bike helmet|helmet > bike light",
        "bike light|rear light|front light > bike lock",
        "bike lock|chain lock > pannier",
        "tyre|road tyre|trail tyre > inner tube",
        "inner tube|tube > floor pump, tyre levers",
        "floor pump|pump > tyre levers",
        "tyre levers|repair kit > inner tube",
        "pannier|bike bag > bike helmet",
    ),
    "Garden": (
        "seeds|flower seeds|vegetable seeds > seed tray",
        "seed tray|propagator > potting soil",
        "potting soil|compost > planter, plant food",
        "planter|flower pot > plant food",
        "plant food|fertiliser > seeds",
        "garden hose|hose > spray nozzle",
        "spray nozzle|hose nozzle > plant food",
        "pruning shears|secateurs > garden gloves",
        "garden gloves|work gloves > seeds",
    ),
    "Skin care": (
        "cleanser|face wash > toner",
        "toner|facial mist > serum",
        "serum|face oil > moisturiser",
        "moisturiser|day cream > sunscreen, face mask",
        "sunscreen|sun lotion > cleanser",
        "face mask|clay mask > toner",
        "hand cream|hand balm > lip balm",
        "lip balm|lip care > moisturiser",
    ),
    "Office": (
        "printer|photo printer > ink cartridge",
        "ink cartridge|ink set > printer paper",
        "printer paper|copy paper > ink cartridge, ring binder",
        "notebook|journal > fountain pen",
        "fountain pen|rollerball pen > pen refills",
        "pen refills|ink bottle > notebook",
        "ring binder|document file > hole punch",
        "hole punch|stapler > desk lamp",
        "desk lamp|reading lamp > notebook",
    ),
    "Novels": (
        "crime novel|mystery > thriller",
        "thriller|spy novel > crime novel",
        "space saga|science fiction novel > fantasy novel",
        "fantasy novel|tale of magic > space saga",
        "family saga|historical novel > village comedy",
        "village comedy|comic novel > family saga",
    ),
    "Pets": (
        "dog bed|pet cushion > dog blanket",
        "dog blanket|pet throw > chew toy",
        "dog harness|walking harness > dog leash",
        "dog leash|lead > treat pouch",
        "treat pouch|training bag > dog treats",
        "dog treats|training treats > chew toy",
        "chew toy|rope toy > dog treats, dog brush",
        "dog brush|grooming comb > dog bed",
    ),
    "Music making": (
        "acoustic guitar|classical guitar > guitar strings, guitar case",
        "guitar strings|string set > tuner",
        "tuner|clip-on tuner > capo",
        "capo|guitar capo > plectrums",
        "plectrums|guitar picks > guitar strings",
        "guitar case|gig bag > guitar strap",
        "guitar strap|shoulder strap > plectrums",
        "music stand|sheet stand > tuner",
    ),
    "Home audio": (
        "turntable|record player > stylus, amplifier",
        "stylus|replacement needle > record brush",
        "record brush|record cleaner > record sleeves",
        "record sleeves|inner sleeves > stylus",
        "amplifier|receiver > bookshelf speaker",
        "bookshelf speaker|speaker pair > speaker cable",
        "speaker cable|audio cable > speaker stand",
        "speaker stand|wall bracket > headphones",
        "headphones|over-ear headphones > turntable",
    ),
    "Crafts": (
        "yarn|wool yarn|sock yarn > knitting needles",
        "knitting needles|circular needles > stitch markers",
        "stitch markers|row counter > yarn",
        "knitting pattern|pattern booklet > yarn",
        "embroidery hoop|hoop frame > embroidery thread",
        "embroidery thread|stranded cotton > embroidery needles",
        "embroidery needles|needle set > scissors",
        "scissors|thread snips > embroidery thread",
    ),
}

NUM_STYLES = 5
MIN_PER_CATEGORY = 5

# Five hidden styles; a style never appears by name, only through words that lean towards it.
_STYLE_WORDS = {
    "Outdoor": ("ultralight|packable", "storm-proof|rugged", "recycled|eco", "scout|heritage", "expedition|pro"),
    "Kitchen": ("slim|compact", "heavy-duty|chunky", "natural|eco", "classic|farmhouse", "precision|professional"),
    "Coffee": ("compact|travel", "strong|heavy-duty", "organic|eco", "classic|italian-style", "precision|barista"),
    "Cycling": ("lightweight|slim", "heavy-duty|trail", "recycled|eco", "retro|touring", "aero|race"),
    "Garden": ("small-space|balcony", "hard-wearing|all-season", "organic|eco", "cottage|traditional", "quick|easy"),
    "Skin care": ("oil-free|light", "intensive|rich", "oat|herbal", "rose|almond", "peptide|vitamin C"),
    "Office": ("slim|mini", "extra strong|large", "recycled|natural", "classic|ivory", "professional|archival"),
    "Novels": ("witty|brisk", "dark|gripping", "quiet|tender", "old-fashioned|cosy", "clever|intricate"),
    "Pets": ("mini|puppy", "tough|sturdy", "natural|eco", "country|classic", "sport|active"),
    "Music making": ("travel|slim", "stage|tough", "natural|eco", "vintage|folk", "precision|studio"),
    "Home audio": ("compact|slim", "studio|sturdy", "eco|natural", "retro|vintage", "hi-fi|precision"),
    "Crafts": ("fine|mini", "chunky|hard-wearing", "natural|eco", "heirloom|traditional", "ergonomic|quick"),
}

# Words that say nothing about taste.
_COLOURS = "black|white|moss green|navy|sand|brick red|grey|plum|mustard|teal|gift box"
_DETAILS = {
    "Skin care": "50 ml|100 ml|200 ml|travel size|refill|unscented|twin pack",
    "Novels": "paperback|hardback|large print|pocket edition|illustrated",
    "Garden": "small|medium|large|value pack|starter set|gift box|new season",
    "Pets": "small|medium|large|twin pack|value pack|new season|for all breeds",
    "Office": "single|value pack|for home|for school|gift box|new edition",
    "Coffee": "gift box|family size|starter pack|twin pack|value pack|new season",
}

_BRANDS = (
    "Aldervik Brumhold Caltessa Dovrin Eskelby Fennaro Gullmere Hasselquay Ivarton Jorvelle Kestamar Lumbrook "
    "Marrowen Nettelby Orlavia Pellworth Quenby Rostavar Silvane Tarnholt Ulverdon Vandremo Wexmoor Yarrolin "
    "Zelthorpe Ambrisk Bellovar Corvandel Druskin Elmarra Fjorna Grentova Hollowick Imbrane Jessamar Kulvane "
    "Lindorra Mossvale Norrigan Ostrelle Pinvara Quillmar Ravenshoe Sorrelby Tolvane Umbrack Vesperin Wolmarra"
).split()
_AUTHORS = (
    "Ada Wrenfield|Tomas Ilvane|Greta Holmquay|Piers Undermere|Noor Castellane|Juno Barrowick|Emil Strandvar|"
    "Odile Ferncastle|Magnus Thorbeck|Sunniva Lark|Bram Oyelund|Petra Quill"
).split("|")
_LINES = (
    "Heron Lichen Ember Tidal Juniper Rowan Slate Kelp Thistle Drift Marten Plover Cobble Sedge Larch Wisp Garnet "
    "Fathom Hollow Beacon Saffron Comet Nettle Puddle"
).split()
_BOOK_FIRST = "Salt Silent Seventh Crooked Amber Winter Paper Hidden Broken Copper Midnight Last Borrowed".split()
_BOOK_SECOND = "Lantern Harbour Orchard Letter Clock Bridge Garden River Key Island Witness Map Feast Choir".split()


@dataclass
class Product:
    """One item: rows of its category and product type, brand or author, hidden style, price level 1 to 5, texts.

    `series` numbers the series of novels and `volume` counts from 1 in it; both are -1 for other items.
    """

    category: int
    kind: int
    brand: str
    style: int
    price: int
    title: str
    text: str
    series: int = -1
    volume: int = -1


@dataclass
class Kind:
    """A product type: its names, the row of its category and the first names of the types bought after it."""

    names: list[str]
    category: int
    followers: list[str]


def list_kinds() -> list[Kind]:
    """Return all product types, category by category; their order gives `Product.kind`."""
    kinds = []
    for category, lines in enumerate(PRODUCTS.values()):
        for line in lines:
            names, followers = line.split(" > ")
            kinds.append(Kind(names.split("|"), category, followers.split(", ")))
    return kinds


def _pick(options: list[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def make_products(num_items: int, rng: np.random.Generator) -> list[Product]:
    """Make the catalogue, category by category, and shuffle it, so that a row number says nothing about the item.

    Args:
        num_items: Number of products, at least `MIN_PER_CATEGORY` a category.
        rng: Source of all randomness.
    """
    kinds = list_kinds()
    brand_style = rng.integers(NUM_STYLES, size=len(_BRANDS))
    brand_price = rng.integers(1, 6, size=len(_BRANDS))
    spare = num_items - len(PRODUCTS) * MIN_PER_CATEGORY
    sizes = MIN_PER_CATEGORY + rng.multinomial(spare, rng.dirichlet(np.full(len(PRODUCTS), 6.0)))
    products: list[Product] = []
    for category, name in enumerate(PRODUCTS):
        own_kinds = [k for k, kind in enumerate(kinds) if kind.category == category]
        if name == "Novels":
            products += _make_novels(int(sizes[category]), category, own_kinds, kinds, rng)
            continue
        brands = rng.choice(len(_BRANDS), size=8, replace=False)
        brand_shares = rng.dirichlet(np.full(8, 2.0))
        kind_shares = rng.dirichlet(np.full(len(own_kinds), 6.0))
        for _ in range(sizes[category]):
            brand = int(rng.choice(brands, p=brand_shares))
            style = int(brand_style[brand]) if rng.random() < 0.6 else int(rng.integers(NUM_STYLES))
            price = int(np.clip(brand_price[brand] + rng.integers(-1, 2), 1, 5))
            kind = int(rng.choice(own_kinds, p=kind_shares))
            title, text = _describe(name, kinds[kind], _BRANDS[brand], style, rng)
            products.append(Product(category, kind, _BRANDS[brand], style, price, title, text))
    return [products[i] for i in rng.permutation(num_items)]


def _style_words(category: str, style: int, count: int, rng: np.random.Generator) -> list[str]:
    """Draw different style words, one in four from any style."""
    words: list[str] = []
    while len(words) < count:
        true_style = rng.random() < 0.75
        word = _pick(_STYLE_WORDS[category][style if true_style else rng.integers(NUM_STYLES)].split("|"), rng)
        if word not in words:
            words.append(word)
    return words


def _describe(category: str, kind: Kind, brand: str, style: int, rng: np.random.Generator) -> tuple[str, str]:
    """Write the title and the text of an item that is not a novel."""
    noun, line = _pick(kind.names, rng), _pick(_LINES, rng)
    detail = _pick(_DETAILS.get(category, _COLOURS).split("|"), rng)
    first, second, third = _style_words(category, style, 3, rng)
    forms = [
        f"{brand} {line} {first} {noun}, {detail}",
        f"{brand} {line} {noun} - {first}, {detail}",
        f"{_capital(first)} {noun} '{line}' by {brand}, {detail}",
        f"{brand} {noun} {line} {rng.integers(10, 100)}, {first}",
        f"{_capital(noun)} {line}, {first}, {second}, {detail} ({brand})",
    ]
    terse = rng.random() < 0.125
    title = f"{brand} {line} {rng.integers(10, 100)}" if terse else _pick(forms, rng)
    parts = [title, f"{category} > {kind.names[0]}" if rng.random() < 0.7 else category, brand]
    if rng.random() < 0.7:
        parts.append(_capital(f"{second}, {third}"))
    return title, ". ".join(parts)


def _make_novels(
    count: int, category: int, own_kinds: list[int], kinds: list[Kind], rng: np.random.Generator
) -> list[Product]:
    """Make `count` novels in series of two to five volumes; an author keeps to one product type and style."""
    author_kind = rng.choice(own_kinds, size=len(_AUTHORS))
    author_style = rng.integers(NUM_STYLES, size=len(_AUTHORS))
    novels: list[Product] = []
    series = 0
    while len(novels) < count:
        writer = int(rng.integers(len(_AUTHORS)))
        author, kind, style = _AUTHORS[writer], int(author_kind[writer]), int(author_style[writer])
        price = int(rng.integers(1, 5))
        name = f"{_pick(_BOOK_FIRST, rng)} {_pick(_BOOK_SECOND, rng)}"
        for volume in range(1, 1 + min(int(rng.integers(2, 6)), count - len(novels))):
            detail = _pick(_DETAILS["Novels"].split("|"), rng)
            own_name = f"The {_pick(_BOOK_FIRST, rng)} {_pick(_BOOK_SECOND, rng)}"
            forms = [
                f"{own_name} (The {name}, book {volume}), {author}",
                f"The {name}, volume {volume}: {own_name}, {detail}",
                f"{author}: {own_name} - The {name} {volume}",
            ]
            title = own_name if rng.random() < 0.125 else _pick(forms, rng)
            words = ", ".join(_style_words("Novels", style, 2, rng))
            noun = _pick(kinds[kind].names, rng)
            text = ". ".join([title, "Novels", author, f"A {words} {noun}" if rng.random() < 0.7 else detail])
            novels.append(Product(category, kind, author, style, price, title, text, series, volume))
        series += 1
    return novels
