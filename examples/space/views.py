"""The page's parts as HTML. Titles and ids are data of others: all text is escaped here."""

from collections.abc import Sequence
from html import escape

from attention import Column, share

INJECTED = '<span class="tag injected">injected</span>'


def loading(checkpoint: str) -> str:
    return (
        f'<div class="notice" role="status"><strong>Loading {escape(checkpoint)}</strong>'
        "<p>Model and catalogue are read into memory. The first visit takes a few seconds.</p>"
        '<div class="progress" aria-hidden="true"></div></div>'
    )


def failure(message: str) -> str:
    return (
        '<div class="notice failed" role="alert"><strong>There is nothing to show</strong>'
        f"<p>{escape(message)}</p><p>Reload the page to try again.</p></div>"
    )


def ready(checkpoint: str, items: int, layers: int, heads: int, attention_type: str, has_titles: bool) -> str:
    facts = [checkpoint, f"{items:,} items", f"{layers} layers × {heads} heads", f"{attention_type} attention"]
    untitled = "" if has_titles else "<p>This catalogue has no titles, so items go by their ids.</p>"
    return f'<div class="facts" role="status"><p>{escape(" · ".join(facts))}</p>{untitled}</div>'


def sentence(text: str) -> str:
    return f'<p class="sentence" role="status">{escape(text)}</p>' if text else ""


def empty(text: str) -> str:
    return f'<p class="empty">{escape(text)}</p>'


def item(item_id: str, title: str, before: str, tags: str, after: str) -> str:
    """A row of a list. An item without a title is named by its id, once."""
    small = "" if title == item_id else f'<span class="id">{escape(item_id)}</span>'
    return (
        f'<li data-id="{escape(item_id)}"><span class="place">{before}</span>'
        f'<span class="name"><span class="title">{escape(title)}</span>{small}{tags}</span>{after}</li>'
    )


def button(action: str, item_id: str, title: str, text: str) -> str:
    label = escape(f"{action.capitalize()} {title}")
    return (
        f'<button type="button" class="{action}" data-action="{action}" data-item="{escape(item_id)}" '
        f'aria-label="{label}">{text}</button>'
    )


def results(found: Sequence[str], titles: Sequence[str], history: Sequence[str], text: str) -> str:
    """Items that can be added, under one sentence about them."""
    rows = [
        item(item_id, title, "", "", '<span class="tag">in history</span>')
        if item_id in history
        else item(item_id, title, "", "", button("add", item_id, title, "Add"))
        for item_id, title in zip(found, titles, strict=True)
    ]
    return sentence(text) + (f'<ul class="items">{"".join(rows)}</ul>' if rows else "")


def history(entries: Sequence, titles: Sequence[str], reads: int) -> str:
    """The history, oldest first; items before the last `reads` are marked as not read.

    Args:
        entries: with `item_id` and `injected`.
        titles: theirs.
        reads: items that the model reads at the most.
    """
    if not entries:
        return empty("No items yet. Add some from the lists, or start with the example.")
    left_out = max(0, len(entries) - reads)
    note = f"The model reads the last {reads} items: the first {left_out} are not read." if left_out else ""
    rows = []
    for place, (entry, title) in enumerate(zip(entries, titles, strict=True)):
        tags = (INJECTED if entry.injected else "") + ('<span class="tag">not read</span>' if place < left_out else "")
        remove = button("remove", entry.item_id, title, '<span aria-hidden="true">×</span>')
        rows.append(item(entry.item_id, title, str(place + 1), tags, remove))
    return sentence(note) + f'<ol class="items">{"".join(rows)}</ol>'


def recommendations(answers: Sequence[dict], history: Sequence[str], text: str) -> str:
    """What is recommended, best first.

    Args:
        answers: of the pipeline, with `item_id`, `title` and `score`.
        history: item ids, which are marked where seen items stay.
    """
    if not answers:
        return empty("Nothing is left to recommend: every item is in the history.")
    rows = []
    for place, answer in enumerate(answers, 1):
        item_id, title = answer["item_id"], answer["title"]
        tags = f'<span class="score">score {number(answer["score"], 3)}</span>'
        seen = item_id in history
        after = '<span class="tag">in history</span>' if seen else button("add", item_id, title, "Add")
        rows.append(item(item_id, title, str(place), tags, after))
    return sentence(text) + f'<ol class="items">{"".join(rows)}</ol>'


def number(value: float, digits: int) -> str:
    """With a minus sign, and none for what rounds to zero."""
    text = f"{abs(value):.{digits}f}"
    return f"−{text}" if value < 0 and float(text) else text


def why(entries: Sequence, titles: Sequence[str], columns: Sequence[Column], notes: Sequence[str]) -> str:
    """Attention over the items that were read: a table whose cells carry number and bar.

    Args:
        entries, titles: the items that were read, oldest first.
        columns: weights of these items.
        notes: sentences below the table.
    """
    scales = axes(columns)
    head = "".join(
        f'<div role="columnheader" class="{kind(column)}"><strong>{column.name}</strong><small>{column.note}</small>'
        f"{axis(*scale)}</div>"
        for column, scale in zip(columns, scales, strict=True)
    )
    rows = []
    for place, (entry, title) in enumerate(zip(entries, titles, strict=True)):
        tags = (INJECTED if entry.injected else "") + (
            '<span class="tag">last item</span>' if place == len(entries) - 1 else ""
        )
        cells = "".join(
            f'<div role="cell" class="{kind(column)}"><span class="number">{number(column.weights[place], 2)}</span>'
            f"{bar(column.weights[place], *scale)}</div>"
            for column, scale in zip(columns, scales, strict=True)
        )
        rows.append(
            f'<div role="row" class="{"injected" if entry.injected else ""}" data-id="{escape(entry.item_id)}">'
            f'<div role="rowheader"><span class="title">{escape(title)}</span>{tags}</div>'
            f'<div class="weights" role="presentation">{cells}</div></div>'
        )
    widths = " ".join(f"minmax(0, {1000 * (high - low):.0f}fr)" for low, high in scales)
    return (
        f"{shares(entries, columns)}"
        f'<div class="scroll" tabindex="0" role="region" aria-label="Attention of the last item">'
        f'<div role="table" class="attention" style="--columns:{widths}" '
        'aria-label="Weight that the last item gives to each item of the history, oldest first">'
        f'<div role="row" class="head"><div role="columnheader">Item, oldest first</div>'
        f'<div class="weights" role="presentation">{head}</div></div>'
        f"{''.join(rows)}</div></div>"
        f'<div class="notes">{"".join(f"<p>{escape(note)}</p>" for note in notes)}</div>'
    )


def shares(entries: Sequence, columns: Sequence[Column]) -> str:
    """How much of each column the injected items have, against their share of the items."""
    injected = [entry.injected for entry in entries]
    if not any(injected):
        return ""
    parts = [("of the items", sum(injected) / len(injected))]
    parts += [
        (f"of {'the ' * (column.sign == 0)}{column.name.lower()}", share(column.weights, injected))
        for column in columns
    ]
    listed = "".join(f"<div><dt>{name}</dt><dd>{value:.0%}</dd></div>" for name, value in parts)
    label = "The injected item is" if sum(injected) == 1 else f"The {sum(injected)} injected items are"
    return f'<div class="shares"><p>{label}</p><dl>{listed}</dl></div>'


def kind(column: Column) -> str:
    return {1: "adds", -1: "subtracts", 0: "used"}[column.sign]


def axes(columns: Sequence[Column]) -> list[tuple[float, float]]:
    """Lowest and highest value of each column's axis. Axes are as wide as their range, so that a weight is as long in
    one column as in another; a difference that was normalised has another unit, and an axis as long as a branch's."""
    scales = [(min(0.0, *column.weights), max(0.0, *column.weights)) for column in columns]
    highest = max([high for column, (_, high) in zip(columns, scales, strict=True) if column.sign] or [scales[0][1]])
    used_low, used_high = scales[-1]
    return [*((0.0, highest) for _ in columns[:-1]), (used_low, max(used_high, highest))]


def axis(low: float, high: float) -> str:
    ticks = [low, 0.0, high] if low < -0.15 * high else [0.0, high]
    marks = "".join(
        f'<span style="left:{percent(tick, low, high)}">{number(tick, 2) if tick else 0}</span>' for tick in ticks
    )
    return f'<span class="axis" aria-hidden="true">{marks}</span>'


def bar(value: float, low: float, high: float) -> str:
    left, width = percent(min(value, 0.0), low, high), percent(abs(value) + low, low, high)
    sign = "negative" if value < 0 else "positive"
    return (
        f'<span class="track" style="--zero:{percent(0.0, low, high)}" aria-hidden="true">'
        f'<span class="bar {sign}" style="left:{left};width:{width}"></span></span>'
    )


def percent(value: float, low: float, high: float) -> str:
    return f"{100 * (value - low) / max(high - low, 1e-9):.2f}%"
