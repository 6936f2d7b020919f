"""A simulated shop: every taste, order effect and irrelevant purchase in it is known, so claims can be checked."""

from __future__ import annotations

from dataclasses import dataclass

import datasets
import numpy as np

from data_fair.demo_catalogue import MIN_PER_CATEGORY, NUM_STYLES, PRODUCTS, Product, list_kinds, make_products

_MIN_LENGTH, _MAX_LENGTH = 5, 40
_START_OF_TIME = 1_609_459_200  # 2021-01-01 00:00 UTC, in epoch seconds
_DAY = 86_400
_USERS_AT_A_TIME = 512

# How much each cause adds to an item's log-odds of being bought next.
_BRAND_WEIGHT = 0.8
_STYLE_WEIGHT = 0.9
_PRICE_WEIGHT = 0.5
_FOLLOWS_WEIGHT = 2.2
_SAME_BRAND_WEIGHT = 1.0
_SAME_TYPE_WEIGHT = -1.5
_NEXT_VOLUME_WEIGHT = 5.5
_POPULARITY_POWER = 0.7


@dataclass
class _Shop:
    """The catalogue as arrays over rows (num_items,); `follows` is (num_kinds, num_kinds) log-odds."""

    category: np.ndarray
    kind: np.ndarray
    brand: np.ndarray
    style: np.ndarray
    price: np.ndarray
    log_popularity: np.ndarray
    next_volume: np.ndarray
    follows: np.ndarray


@dataclass
class _Tastes:
    """Latent tastes, a row a user: category shares at the start and the end, log-odds of brands and styles, price."""

    start: np.ndarray
    end: np.ndarray
    brand: np.ndarray
    style: np.ndarray
    price: np.ndarray

    def rows(self, rows: slice) -> _Tastes:
        return _Tastes(self.start[rows], self.end[rows], self.brand[rows], self.style[rows], self.price[rows])


def simulate_store(
    num_users: int = 3000, num_items: int = 800, irrelevant_share: float = 0.1, seed: int = 0
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Simulate the purchases of a small shop in which the cause of every purchase is known.

    The catalogue has 12 categories of 6 to 9 product types. An item has a product type, a brand (an author for
    novels), one of five hidden styles, a price level from 1 to 5 and a popularity that falls with a random rank.
    Brands lean towards a style and a price. Titles mix brand, line, style words, product type and details that mean
    nothing, in several forms; about one in eight is terse and does not name the product. Style words are chosen from
    the wrong style one time in four, so the text tells much about an item but not all.

    A user likes two to four categories, some brands and styles, and a price level. The shares of the categories drift
    from one draw to another over the user's life. Each next item is drawn with log-odds that add up popularity, these
    tastes and what was bought last: a complement becomes likely (a tent, then a sleeping bag; a printer, then ink),
    more so from the same brand; the next volume of a series follows in more than a quarter of the cases; one more of
    the same product type becomes unlikely. Then a share of all positions, chosen evenly and anywhere, holds a gift
    for someone else: any item outside the user's categories, all equally likely. A gift does not change what the user
    buys next.
    Sequence lengths run from 5 to 40, long-tailed, with a mean near 11. No user buys an item twice.

    It is no model of a real shop: there are no ratings, returns, seasons, advertisements or recommendations, items do
    not come and go, and users do not influence each other. Figures measured on it say that code works and what a
    model can pick up, not how well it would do on real data. Brands and authors are invented.

    Args:
        num_users: Number of users, at least 1.
        num_items: Number of items, at least 60. In small catalogues sequences are cut so that items suffice.
        irrelevant_share: Share of all purchases that are gifts, 0 <= share < 1; exact up to rounding.
        seed: Seed of the one random generator; equal arguments give equal data.

    Returns:
        `(sequences, items)`. Sequences have `user_id` (str), `item_ids` (list of str, oldest first), `timestamps`
        (list of int, epoch seconds, strictly increasing) and `irrelevant` (list of bool, True for a gift). Items
        have `item_id`, `title`, `text`, `brand`, `category`, `product_type` (str) and `price_level` (int, 1 to 5),
        in an order that says nothing about them.

    Raises:
        ValueError: If an argument is out of range.
    """
    if num_users < 1:
        raise ValueError(f"num_users is {num_users}; it must be at least 1.")
    if num_items < len(PRODUCTS) * MIN_PER_CATEGORY:
        raise ValueError(f"num_items is {num_items}; it must be at least {len(PRODUCTS) * MIN_PER_CATEGORY}.")
    if not 0 <= irrelevant_share < 1:
        raise ValueError(f"irrelevant_share is {irrelevant_share}; it must be at least 0 and below 1.")
    rng = np.random.default_rng(seed)
    products = make_products(num_items, rng)
    shop = _open_shop(products, rng)
    tastes = _draw_tastes(num_users, shop, rng)
    lengths = _draw_lengths(tastes, shop, rng)
    gifts = _draw_gift_positions(lengths, irrelevant_share, rng)
    bought = np.full((num_users, _MAX_LENGTH), -1)
    for first in range(0, num_users, _USERS_AT_A_TIME):
        rows = slice(first, first + _USERS_AT_A_TIME)
        bought[rows] = _go_shopping(tastes.rows(rows), shop, lengths[rows], gifts[rows], rng)
    times = _draw_times(num_users, rng)

    digits = max(4, len(str(num_items - 1)))
    item_ids = [f"p{row:0{digits}d}" for row in range(num_items)]
    sequences = datasets.Dataset.from_dict(
        {
            "user_id": [f"u{user}" for user in range(num_users)],
            "item_ids": [[item_ids[i] for i in bought[u, :n]] for u, n in enumerate(lengths)],
            "timestamps": [times[u, :n].tolist() for u, n in enumerate(lengths)],
            "irrelevant": [gifts[u, :n].tolist() for u, n in enumerate(lengths)],
        }
    )
    categories, kinds = list(PRODUCTS), list_kinds()
    items = datasets.Dataset.from_dict(
        {
            "item_id": item_ids,
            "title": [p.title for p in products],
            "text": [p.text for p in products],
            "brand": [p.brand for p in products],
            "category": [categories[p.category] for p in products],
            "product_type": [kinds[p.kind].names[0] for p in products],
            "price_level": [p.price for p in products],
        }
    )
    return sequences, items


def _open_shop(products: list[Product], rng: np.random.Generator) -> _Shop:
    """Turn the products into arrays and draw how popular each is."""
    kinds = list_kinds()
    row_of_name = {kind.names[0]: k for k, kind in enumerate(kinds)}
    follows = np.diag(np.full(len(kinds), _SAME_TYPE_WEIGHT))
    for k, kind in enumerate(kinds):
        follows[k, [row_of_name[name] for name in kind.followers]] = _FOLLOWS_WEIGHT
    row_of_volume = {(p.series, p.volume): row for row, p in enumerate(products) if p.volume > 0}
    return _Shop(
        category=np.array([p.category for p in products]),
        kind=np.array([p.kind for p in products]),
        brand=np.unique([p.brand for p in products], return_inverse=True)[1],
        style=np.array([p.style for p in products]),
        price=np.array([p.price for p in products]),
        log_popularity=-_POPULARITY_POWER * np.log1p(rng.permutation(len(products))),
        next_volume=np.array([row_of_volume.get((p.series, p.volume + 1), -1) for p in products]),
        follows=follows,
    )


def _draw_tastes(num_users: int, shop: _Shop, rng: np.random.Generator) -> _Tastes:
    num_categories = len(PRODUCTS)
    start, end = np.zeros((num_users, num_categories)), np.zeros((num_users, num_categories))
    for user in range(num_users):
        count = int(rng.integers(2, 5))
        liked = rng.choice(num_categories, size=count, replace=False)
        start[user, liked], end[user, liked] = rng.dirichlet(np.ones(count), size=2)
    return _Tastes(
        start=start,
        end=end,
        brand=_BRAND_WEIGHT * rng.standard_normal((num_users, int(shop.brand.max()) + 1)),
        style=_STYLE_WEIGHT * rng.standard_normal((num_users, NUM_STYLES)),
        price=rng.uniform(1, 5, num_users),
    )


def _draw_lengths(tastes: _Tastes, shop: _Shop, rng: np.random.Generator) -> np.ndarray:
    """Draw sequence lengths (num_users,), never more than there are items in the user's categories."""
    drawn = _MIN_LENGTH + rng.lognormal(mean=1.4, sigma=1.0, size=len(tastes.start)).astype(int)
    items_in_category = np.bincount(shop.category, minlength=len(PRODUCTS))
    return np.minimum(np.minimum(drawn, _MAX_LENGTH), (tastes.start > 0) @ items_in_category)


def _draw_gift_positions(lengths: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Mark `share` of all positions, evenly over users and places; bool (num_users, 40)."""
    gifts = np.arange(_MAX_LENGTH) < lengths[:, None]
    positions = np.flatnonzero(gifts)
    gifts[:] = False
    gifts.flat[rng.choice(positions, size=round(share * len(positions)), replace=False)] = True
    return gifts


def _go_shopping(
    tastes: _Tastes, shop: _Shop, lengths: np.ndarray, gifts: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw what each user buys, step by step for all users at once; item rows (users, 40), -1 after the end."""
    bought = np.full(gifts.shape, -1)
    steady = shop.log_popularity + tastes.brand[:, shop.brand] + tastes.style[:, shop.style]
    steady -= _PRICE_WEIGHT * np.abs(tastes.price[:, None] - shop.price)
    liked = (tastes.start > 0)[:, shop.category]
    free = np.ones(liked.shape, bool)
    last = np.full(len(lengths), -1)
    for step in range(lengths.max()):
        users = np.flatnonzero(lengths > step)
        gift = gifts[users, step]
        age = (step / (lengths[users] - 1))[:, None]
        shares = (1 - age) * tastes.start[users] + age * tastes.end[users]
        logits = steady[users] + np.log(np.maximum(shares, 1e-12))[:, shop.category]
        logits += _pull_of_last(last[users], shop)
        logits[gift] = 0.0
        logits[~(free[users] & (liked[users] ^ gift[:, None]))] = -np.inf
        # The largest log-odds plus Gumbel noise is a draw from their softmax.
        chosen = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        bought[users, step] = chosen
        free[users, chosen] = False
        last[users[~gift]] = chosen[~gift]
    return bought


def _pull_of_last(last: np.ndarray, shop: _Shop) -> np.ndarray:
    """Return the log-odds (users, num_items) that the last own purchase adds; -1 stands for none yet."""
    pull = shop.follows[shop.kind[last]][:, shop.kind]
    pull += _SAME_BRAND_WEIGHT * ((pull > 0) & (shop.brand[last][:, None] == shop.brand))
    in_series = np.flatnonzero(shop.next_volume[last] >= 0)
    pull[in_series, shop.next_volume[last[in_series]]] += _NEXT_VOLUME_WEIGHT
    pull[last < 0] = 0.0
    return pull


def _draw_times(num_users: int, rng: np.random.Generator) -> np.ndarray:
    """Draw purchase times (num_users, 40) in epoch seconds: visits weeks apart, some with several purchases."""
    first = _START_OF_TIME + rng.integers(0, 900 * _DAY, size=num_users)
    same_visit = rng.random((num_users, _MAX_LENGTH)) < 0.3
    seconds = rng.integers(30, 1200, size=same_visit.shape)
    later = (rng.exponential(25 * _DAY, size=same_visit.shape) + 3600).astype(np.int64)
    return first[:, None] + np.cumsum(np.where(same_visit, seconds, later), axis=1)
