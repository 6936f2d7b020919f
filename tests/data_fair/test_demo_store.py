"""The simulated store keeps its promises: known noise, real order effects, varied text, and no easy answers."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_fair.demo_catalogue import PRODUCTS, list_kinds
from data_fair.demo_store import simulate_store
from examples.baselines.cooccurrence import CoOccurrence
from examples.baselines.popularity import Popularity


@pytest.fixture(scope="module")
def store():
    return simulate_store()


def as_rows(sequences, items):
    row = {item_id: r for r, item_id in enumerate(items["item_id"])}
    return [[row[i] for i in s] for s in sequences["item_ids"]]


def test_columns_and_ids(store):
    sequences, items = store
    assert sequences.column_names == ["user_id", "item_ids", "timestamps", "irrelevant"]
    assert items.column_names == ["item_id", "title", "text", "brand", "category", "product_type", "price_level"]
    assert (len(sequences), len(items)) == (3000, 800)
    assert sequences["user_id"][17] == "u17" and items["item_id"][421] == "p0421"
    first = sequences[0]
    assert isinstance(first["timestamps"][0], int) and isinstance(first["irrelevant"][0], bool)


def test_a_seed_decides_everything():
    first, again, other = (simulate_store(60, 100, seed=seed) for seed in (3, 3, 4))
    for a, b, c in zip(first, again, other, strict=True):
        assert a.to_dict() == b.to_dict()
        assert a._fingerprint == b._fingerprint  # so that later steps are found in the cache
        assert a.to_dict() != c.to_dict()


@settings(max_examples=25, deadline=None)
@given(
    num_users=st.integers(1, 40),
    num_items=st.integers(60, 300),
    share=st.floats(0, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_rules_hold_for_any_store(num_users, num_items, share, seed):
    sequences, items = simulate_store(num_users, num_items, share, seed)
    category = dict(zip(items["item_id"], items["category"], strict=True))
    assert len(sequences) == num_users and len(category) == num_items
    assert set(category.values()) == set(PRODUCTS)
    assert set(items["price_level"]) <= {1, 2, 3, 4, 5}
    flags = [flag for s in sequences["irrelevant"] for flag in s]
    assert sum(flags) == round(share * len(flags))
    for s in sequences:
        assert 5 <= len(s["item_ids"]) <= 40
        assert len(s["item_ids"]) == len(set(s["item_ids"])) == len(s["timestamps"]) == len(s["irrelevant"])
        assert all(a < b for a, b in zip(s["timestamps"], s["timestamps"][1:], strict=False))
        own = {category[i] for i, flag in zip(s["item_ids"], s["irrelevant"], strict=True) if not flag}
        gifts = {category[i] for i, flag in zip(s["item_ids"], s["irrelevant"], strict=True) if flag}
        assert not own & gifts
        assert len(own) <= 4


def test_gifts_are_spread_evenly(store):
    sequences, items = store
    flags = sequences["irrelevant"]
    assert np.mean([s[-1] for s in flags]) == pytest.approx(0.1, abs=0.02)
    assert np.mean([s[0] for s in flags]) == pytest.approx(0.1, abs=0.02)
    # Gifts ignore popularity: the best sellers among own purchases are rare among them.
    rows = as_rows(sequences, items)
    own = np.bincount([i for s, f in zip(rows, flags, strict=True) for i, g in zip(s, f, strict=True) if not g])
    gifts = np.bincount([i for s, f in zip(rows, flags, strict=True) for i, g in zip(s, f, strict=True) if g])
    best = np.argsort(-own)[:80]
    assert own[best].sum() / own.sum() > 0.28
    assert gifts[best].sum() / gifts.sum() < 0.14


def test_long_tails_and_no_hint_in_the_row_order(store):
    sequences, items = store
    lengths = np.array([len(s) for s in sequences["item_ids"]])
    assert 10 < lengths.mean() < 12
    assert np.median(lengths) < lengths.mean() and np.quantile(lengths, 0.99) > 30
    counts = np.bincount(np.concatenate(as_rows(sequences, items)), minlength=len(items))
    assert np.sort(counts)[-80:].sum() > 0.25 * counts.sum()
    assert abs(np.corrcoef(np.arange(len(items)), np.argsort(np.argsort(counts)))[0, 1]) < 0.1


def own_pairs(sequences, items):
    """Neighbours in the sequences without gifts, as two arrays of catalogue rows."""
    rows = as_rows(sequences, items)
    own = [[i for i, g in zip(s, f, strict=True) if not g] for s, f in zip(rows, sequences["irrelevant"], strict=True)]
    return np.array([pair for s in own for pair in zip(s, s[1:], strict=False)]).T


def test_complements_follow_their_item(store):
    sequences, items = store
    earlier, later = own_pairs(sequences, items)
    names = np.array(items["product_type"])
    followers = {kind.names[0]: set(kind.followers) for kind in list_kinds()}

    def share(a, b):
        return np.mean([y in followers[x] for x, y in zip(names[a], names[b], strict=True)])

    # Reversed pairs have the same tastes and popularity and differ in the order alone.
    assert share(earlier, later) > 2.5 * share(later, earlier)


def test_next_volume_follows(store):
    sequences, items = store
    volumes = {}
    for row, item in enumerate(items):
        found = re.search(r"The (\w+ \w+)(?:, book |, volume | )(\d)", item["title"])
        if item["category"] == "Novels" and found:
            volumes[row] = (item["brand"], found[1], int(found[2]))
    earlier, later = own_pairs(sequences, items)

    def share(a, b):
        """Share of pairs that go on to the next volume, among those that start from a volume which has one."""
        next_of = {row: (author, name, volume + 1) for row, (author, name, volume) in volumes.items()}
        has_next = [(next_of[x], volumes.get(y)) for x, y in zip(a, b, strict=True) if x in next_of]
        has_next = [pair for pair in has_next if pair[0] in volumes.values()]
        assert len(has_next) > 300
        return np.mean([wanted == got for wanted, got in has_next])

    assert share(earlier, later) > 0.2
    assert share(later, earlier) < 0.02


def test_a_gift_changes_nothing_about_what_comes_next(store):
    sequences, items = store
    kind = dict(zip(items["item_id"], items["product_type"], strict=True))
    followers = {kind.names[0]: set(kind.followers) for kind in list_kinds()}
    follows = {"after a gift": [], "directly": []}
    for s in sequences:
        own = [(at, kind[i]) for at, (i, g) in enumerate(zip(s["item_ids"], s["irrelevant"], strict=True)) if not g]
        for (at, name), (next_at, next_name) in zip(own, own[1:], strict=False):
            follows["directly" if next_at == at + 1 else "after a gift"].append(next_name in followers[name])
    assert len(follows["after a gift"]) > 1000
    assert np.mean(follows["after a gift"]) == pytest.approx(np.mean(follows["directly"]), abs=0.05)


def test_tastes_drift(store):
    sequences, items = store
    category = dict(zip(items["item_id"], items["category"], strict=True))
    own = [
        [category[i] for i, g in zip(s["item_ids"], s["irrelevant"], strict=True) if not g]
        for s in sequences
        if len(s["item_ids"]) >= 25
    ]
    soon = np.mean([a == b for s in own for a in s[:5] for b in s[5:10]])
    late = np.mean([a == b for s in own for a in s[:5] for b in s[-5:]])
    assert soon > late + 0.05  # 0.10 as it is, 0.02 with tastes that stand still


def test_titles_are_varied_and_text_tells_more(store):
    _, items = store
    titles, texts = items["title"], items["text"]
    assert len(set(titles)) > 0.97 * len(titles)
    assert all(text.startswith(title) and len(text) > len(title) for title, text in zip(titles, texts, strict=True))
    words = [len(t.split()) for t in titles]
    assert min(words) <= 3 and max(words) >= 7
    nouns = {name.lower() for kind in list_kinds() for name in kind.names}
    names_product = np.array([any(n in t.lower() for n in nouns) for t in titles])
    goods = np.array(items["category"]) != "Novels"
    assert 0.8 < names_product[goods].mean() < 0.95  # some are terse
    assert all(b in t for b, t in zip(items["brand"], texts, strict=True))


def recall_at_10(model, sequences, num_items):
    """Leave-one-out test recall with seen items kept; fitted without the last two items of each user."""
    model.fit([s[:-2] for s in sequences], num_items)
    scores = model.scores([s[:-1] for s in sequences])
    target = scores[np.arange(len(sequences)), [s[-1] for s in sequences]]
    return float(((scores > target[:, None]).sum(axis=1) < 10).mean())


def test_not_too_easy_and_counting_beats_popularity(store):
    sequences, items = store
    rows = as_rows(sequences, items)
    popularity = recall_at_10(Popularity(), rows, len(items))
    counting = recall_at_10(CoOccurrence(), rows, len(items))
    order_blind = recall_at_10(CoOccurrence(backward=1.0, decay=1.0), rows, len(items))
    assert popularity < 0.1 < counting < 0.3
    assert counting > 2.5 * popularity
    assert counting > order_blind + 0.01


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"num_users": 0}, "num_users"),
        ({"num_items": 59}, "num_items"),
        ({"irrelevant_share": 1.0}, "irrelevant_share"),
        ({"irrelevant_share": -0.1}, "irrelevant_share"),
        ({"irrelevant_share": float("nan")}, "irrelevant_share"),
    ],
)
def test_bad_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=f"^{name} is"):
        simulate_store(**arguments)


def test_rows_survive_json(store):
    sequences, items = store
    assert json.loads(json.dumps(sequences[5])) == sequences[5]
    assert json.loads(json.dumps(items[5])) == items[5]
