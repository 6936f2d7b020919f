"""The parts are well-formed, whatever the titles are, and say what they show."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

import views
from attention import Column
from visit import Entry

TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff"), min_size=1)
COLUMNS = [
    Column("Branch 1", "", [0.5, 0.3, 0.2], 1),
    Column("Branch 2", "", [0.1, 0.4, 0.0], -1),
    Column("Difference", "", [0.4, -0.1, 0.2], 0),
]


def parse(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<page>{html}</page>")


def texts(html: str, name: str) -> list[str]:
    return ["".join(element.itertext()) for element in parse(html).iter() if name in element.get("class", "").split()]


@given(titles=st.lists(TEXT, min_size=3, max_size=3), item_ids=st.lists(TEXT, min_size=3, max_size=3, unique=True))
def test_titles_and_ids_are_text(titles, item_ids):
    entries = [Entry(item_id, injected=item_id == item_ids[1]) for item_id in item_ids]
    answers = [
        {"item_id": item_id, "title": title, "score": -1.5} for item_id, title in zip(item_ids, titles, strict=True)
    ]
    parts = [
        views.results(item_ids, titles, item_ids[:1], "found"),
        views.history(entries, titles, 2),
        views.recommendations(answers, item_ids[:1], "best first"),
        views.why(entries, titles, COLUMNS, titles),
    ]
    for part in parts:
        assert texts(part, "title") == titles
    for message in titles:
        parse(views.failure(message) + views.loading(message) + views.ready(message, 3, 2, 2, "focused", False))


def test_history_marks_what_is_injected_and_what_is_not_read():
    entries = [Entry("p1"), Entry("p2", injected=True), Entry("p3")]
    html = views.history(entries, ["one", "two", "three"], 2)
    assert texts(html, "sentence") == ["The model reads the last 2 items: the first 1 are not read."]
    assert texts(html, "name") == ["onep1not read", "twop2injected", "threep3"]
    assert "not read" not in views.history(entries, ["one", "two", "three"], 3)


def test_items_without_titles_are_named_once():
    assert texts(views.results(["p1"], ["p1"], [], ""), "name") == ["p1"]


def test_empty_parts_say_what_to_do():
    assert "start with the example" in views.history([], [], 5)
    assert "Nothing is left" in views.recommendations([], ["p1"], "")
    assert parse(views.results([], [], [], "No item")).find("ul") is None


def test_why_gives_every_weight_and_the_share_of_what_is_injected():
    html = views.why([Entry("p1"), Entry("p2", True), Entry("p3")], ["one", "two", "three"], COLUMNS, [])
    assert texts(html, "number") == ["0.50", "0.10", "0.40", "0.30", "0.40", "−0.10", "0.20", "0.00", "0.20"]
    (shares,) = texts(html, "shares")
    assert shares == "The injected item isof the items33%of branch 130%of branch 280%of the difference14%"
    assert "shares" not in views.why([Entry("p1")] * 3, ["one"] * 3, COLUMNS, [])


def test_a_weight_is_as_long_in_one_column_as_in_another():
    scales = views.axes(COLUMNS)
    assert scales == [(0, 0.5), (0, 0.5), (-0.1, 0.5)]
    assert views.axes(COLUMNS[2:]) == [(-0.1, 0.4)]
    shown = parse(views.bar(-0.1, -0.1, 0.5)).find("span/span").get("style")
    assert shown == "left:0.00%;width:16.67%"


@pytest.mark.parametrize("value, text", [(-0.126, "−0.13"), (-0.001, "0.00"), (0.5, "0.50")])
def test_numbers(value, text):
    assert views.number(value, 2) == text
