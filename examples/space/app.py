"""A page that shows what a checkpoint recommends and what its attention reads.

    python examples/space/app.py runs/demo

Without an argument, the checkpoint is the environment's FAIR_CHECKPOINT, a folder or a Hub repository, or runs/demo.
"""

import argparse
import logging
import os
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import gradio as gr

import views
from attention import attention_of_last_item
from recommender import CheckpointError, Recommender
from visit import Visit

HERE = Path(__file__).parent
FOUND, TOP_K, EXAMPLE_LENGTH = 8, 8, 6
MEAN = "Mean"
EXPLANATION = (
    "The state of the last item predicts the next one. Blue adds to what it reads, red takes away. In layer 1 it "
    "reads the items themselves, in later layers what they became after reading the items before them."
)
PRIOR = "This checkpoint also adds counts of items bought together to its scores; they do not pass through attention."
ONE_BRANCH = "This model has standard attention: one branch, so there is no difference to show."
# A list's buttons tell the page what was pressed; the keyboard stays in the list when it is drawn anew.
ON_LOAD = """
let pressed = -1;
const buttons = () => [...element.querySelectorAll("button[data-item]")];
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-item]");
  if (!button) return;
  pressed = buttons().indexOf(button);
  trigger("click", {action: button.dataset.action, item: button.dataset.item});
});
watch("value", () => {
  const left = buttons();
  if (pressed >= 0 && document.activeElement === document.body) left[Math.min(pressed, left.length - 1)]?.focus();
  pressed = -1;
});
"""
_loading = Lock()


@lru_cache(maxsize=1)
def recommender_of(checkpoint: str) -> Recommender:
    return Recommender.load(checkpoint)


def found_items(recommender: Recommender, visit: Visit, words: str) -> str:
    """The results of a search, or the items met most often where nothing is searched for."""
    if words.strip():
        found, more = recommender.search(words, FOUND)
        text = f"The first {FOUND} items: add a word to see others." if more else f"Items found: {len(found)}."
        text = text if found else f"No item has “{words.strip()}” in its title or id: try fewer or shorter words."
    else:
        found, text = recommender.popular(FOUND), "Met most often in training:"
    return views.results(found, recommender.titles(found), visit.item_ids, text)


def recommended_items(recommender: Recommender, visit: Visit, remove_seen: bool) -> str:
    answers = recommender.recommend(visit.item_ids, remove_seen, TOP_K)
    own = [entry.item_id for entry in visit.history if not entry.injected]
    if not visit.history:
        text = "Without a history: the items met most often in training."
    elif len(own) < len(visit.history):
        before = {answer["item_id"] for answer in recommender.recommend(own, remove_seen, TOP_K)}
        same = sum(answer["item_id"] in before for answer in answers)
        text = f"Without what was injected, {same} of these {len(answers)} would be here as well."
    else:
        text = f"After {len(own)} item{'s' if len(own) > 1 else ''}, best first:"
    return views.recommendations(answers, visit.item_ids, text)


def why(recommender: Recommender, visit: Visit, layer: str, head: str) -> str:
    if not visit.history:
        return views.empty("Add an item to see what the model reads of it.")
    attention = attention_of_last_item(recommender.model, recommender.tokenizer, visit.item_ids)
    columns = attention.columns(int(layer) - 1, None if head == MEAN else int(head) - 1)
    read = visit.history[-recommender.reads :]
    notes = [EXPLANATION]
    notes += [ONE_BRANCH] if len(columns) == 1 else []
    notes += [PRIOR] if recommender.model.prior is not None else []
    return views.why(read, recommender.titles([entry.item_id for entry in read]), columns, notes)


def build(checkpoint: str) -> gr.Blocks:
    """The page of a checkpoint, which is loaded when the page is first opened."""

    def open_page() -> list[Any]:
        try:
            with _loading:  # visitors that come meanwhile wait for the same one
                config = (recommender := recommender_of(checkpoint)).model.config
        except CheckpointError as error:
            logging.exception("The checkpoint could not be opened.")
            return [views.failure(str(error)), *[gr.skip()] * 9]
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        facts = views.ready(
            checkpoint, len(recommender.item_ids), layers, heads, config.attention_type, recommender.has_titles
        )
        last = str(layers)
        return [
            facts,
            gr.update(elem_classes=[]),
            gr.update(choices=[str(layer + 1) for layer in range(layers)], value=last),
            gr.update(choices=[MEAN, *(str(head + 1) for head in range(heads))], value=MEAN),
            *show(Visit(), "", True, last, MEAN),
        ]

    def search_items(visit: Visit, words: str) -> str:
        return found_items(recommender_of(checkpoint), visit, words)

    def choose(visit: Visit, event: gr.EventData) -> Visit:
        action, item_id = event._data["action"], event._data["item"]
        try:
            recommender_of(checkpoint).titles([item_id])
        except ValueError as error:
            raise gr.Error(str(error)) from error
        return visit.add(item_id) if action == "add" else visit.remove(item_id)

    def start_example(visit: Visit) -> Visit:
        recommender = recommender_of(checkpoint)
        return visit.start(recommender.example(visit.examples, EXAMPLE_LENGTH))

    def inject(visit: Visit) -> Visit:
        try:
            return visit.inject(recommender_of(checkpoint).item_ids)
        except ValueError as error:
            raise gr.Error(str(error)) from error

    def show(visit: Visit, words: str, remove_seen: bool, layer: str, head: str) -> list[Any]:
        """All that depends on the visit."""
        recommender = recommender_of(checkpoint)
        active = gr.update(interactive=bool(visit.history))
        return [
            found_items(recommender, visit, words),
            views.history(visit.history, recommender.titles(visit.item_ids), recommender.reads),
            recommended_items(recommender, visit, remove_seen),
            why(recommender, visit, layer, head),
            active,
            active,
        ]

    def items(name: str) -> gr.HTML:
        return gr.HTML(elem_id=name, js_on_load=ON_LOAD, apply_default_css=False)

    def heading(text: str, more: str = "") -> None:
        gr.HTML(f"<h2>{text}</h2>{more and f'<p>{more}</p>'}", elem_classes="heading", apply_default_css=False)

    with gr.Blocks(title="FAIR: what comes next, and why", analytics_enabled=False, fill_width=True) as page:
        visit = gr.State(Visit())
        gr.HTML(
            "<h1>What comes next, and why</h1><p>Build a history, see what FAIR recommends, and see what its "
            "attention reads.</p>",
            elem_id="intro",
            apply_default_css=False,
        )
        status = gr.HTML(views.loading(checkpoint), elem_id="status", apply_default_css=False)
        # Not visible=False: parts that a browser has not made yet lose what they are given.
        with gr.Column(elem_classes="waiting", elem_id="page") as content:
            with gr.Row(elem_classes="cards", equal_height=True):
                with gr.Column(elem_classes="card", min_width=300):
                    heading("Find items")
                    words = gr.Textbox(
                        label="Words of a title, or an id",
                        placeholder="for example: tent",
                        max_lines=1,
                        elem_id="search",
                    )
                    results = items("results")
                with gr.Column(elem_classes="card", min_width=300):
                    heading("History", "Oldest first.")
                    with gr.Row(elem_classes="tools", elem_id="history-tools"):
                        example = gr.Button("Example", elem_id="example", size="sm")
                        injection = gr.Button("Inject a random item", elem_id="inject", size="sm", interactive=False)
                        clear = gr.Button("Clear", elem_id="clear", size="sm", interactive=False)
                    history = items("history")
                with gr.Column(elem_classes="card", min_width=300):
                    heading("Recommended next")
                    remove_seen = gr.Checkbox(True, label="Leave out items of the history", elem_id="remove-seen")
                    recommended = items("recommended")
            with gr.Column(elem_classes="card"):
                heading("Why: attention over the history", "The weight that the last item gives to each item.")
                with gr.Row(elem_classes="tools"):
                    layer = gr.Radio([], label="Layer", elem_id="layer")
                    head = gr.Radio([], label="Head", elem_id="head")
                explanation = gr.HTML(elem_id="why", apply_default_css=False)

        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        shown = {
            "fn": show,
            "inputs": [visit, words, remove_seen, layer, head],
            "outputs": [results, history, recommended, explanation, injection, clear],
            **quiet,
        }
        page.load(open_page, outputs=[status, content, layer, head, *shown["outputs"]], **quiet)
        words.change(search_items, [visit, words], results, **quiet)
        for listed in (results, history, recommended):
            listed.click(choose, visit, visit, **quiet)
        example.click(start_example, visit, visit, **quiet)
        injection.click(inject, visit, visit, **quiet)
        clear.click(Visit, outputs=visit, **quiet)
        gr.on([visit.change, remove_seen.input, layer.input, head.input], trigger_mode="always_last", **shown)
    return page


def serve(checkpoint: str, port: int | None = None, **options: Any) -> gr.Blocks:
    """Serve the page, by default until it is interrupted; `options` are those of `launch`."""
    # Fonts of the system: the page asks no other host for anything.
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    page = build(checkpoint)
    page.launch(
        server_port=port, theme=theme, css_paths=HERE / "style.css", footer_links=[], ssr_mode=False, **options
    )
    return page


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default=os.environ.get("FAIR_CHECKPOINT") or "runs/demo")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    own = parser.parse_args(arguments)
    serve(own.checkpoint, own.port)


if __name__ == "__main__":
    main()
