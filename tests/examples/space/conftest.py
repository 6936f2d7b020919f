"""A checkpoint that learned something, of a shop small enough to be trained in seconds."""

from pathlib import Path

import pytest
from transformers import set_seed

from data_fair import split_leave_one_out
from data_fair.demo_store import simulate_store
from modeling_fair import (
    FairConfig,
    FairForGenerativeRecommendation,
    FairTokenizer,
    FairTrainer,
    FairTrainingArguments,
)
from recommender import Recommender
from tokenization_fair.preprocessing_fair import prepare_datasets


@pytest.fixture(scope="session")
def shop(tmp_path_factory) -> Path:
    """120 items, 200 users, 30 steps: focused attention, 2 layers of 2 heads, histories of 12 items."""
    folder = tmp_path_factory.mktemp("shop")
    set_seed(0)
    sequences, items = simulate_store(num_users=200, num_items=120)
    counts: dict[str, int] = {}
    for item_id in (item_id for user in sequences["item_ids"] for item_id in user[:-2]):
        counts[item_id] = counts.get(item_id, 0) + 1
    settings = {"num_codebooks": 4, "codebook_size": 16, "pca_dim": 32, "model_max_length": 12}
    tokenizer = FairTokenizer.fit(items, text_encoder="tfidf", item_counts=counts, show_progress=False, **settings)
    data = prepare_datasets(split_leave_one_out(sequences), tokenizer)
    config = FairConfig(
        num_codebooks=4,
        codebook_size=16,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        codebook_fingerprint=tokenizer.codebook_fingerprint,
    )
    trainer = FairTrainer(
        model=FairForGenerativeRecommendation(config),
        args=FairTrainingArguments(
            output_dir=str(folder),
            max_steps=30,
            learning_rate=0.01,
            use_cpu=True,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
        ),
        processing_class=tokenizer,
        train_dataset=data["train"],
    )
    trainer.train()
    trainer.save_model()
    return folder


@pytest.fixture(scope="session")
def recommender(shop) -> Recommender:
    return Recommender.load(str(shop))


@pytest.fixture(scope="session")
def plain(config, items, embeddings, tmp_path_factory) -> Path:
    """An untrained checkpoint of the other kind: standard attention, items without titles, histories of 3 items."""
    folder = tmp_path_factory.mktemp("plain")
    untitled = [{"item_id": item["item_id"]} for item in items]
    tokenizer = FairTokenizer.fit(
        untitled, embeddings=embeddings, num_codebooks=4, codebook_size=8, model_max_length=3, show_progress=False
    )
    fields = {**config.to_dict(), "attention_type": "standard", "max_position_embeddings": 3}
    set_seed(0)
    FairForGenerativeRecommendation(FairConfig(**fields)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
