"""Hugging Face's Trainer takes a wrapped model as it takes the model: it reads the signature of `forward`."""

from __future__ import annotations

import pytest
import torch

from topdown import TopDownLatch
from topdown.adapters import HookedBackbone

transformers = pytest.importorskip("transformers")


def make_latch():
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 20}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, num_labels=2))
    return TopDownLatch(HookedBackbone(model, {"text": "bert.encoder"}), "linear", sites={"text": "bert.embeddings"})


def test_training_and_evaluation_need_no_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.trainer, "is_datasets_available", lambda: False)  # tests/datasets is not that library
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 20, (32, 6), generator=generator)
    data = [{"input_ids": row, "attention_mask": torch.ones(6).long(), "labels": int(row[0] > 9), "name": 3} for row in ids]
    latch = make_latch()
    latch(input_ids=ids, attention_mask=torch.ones(32, 6).long())
    options = {"use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True, "learning_rate": 0.01}
    arguments = transformers.TrainingArguments(str(tmp_path), num_train_epochs=3, **options)
    trainer = transformers.Trainer(latch, arguments, train_dataset=data, eval_dataset=data)
    assert trainer.label_names == ["labels"]
    before = trainer.evaluate()["eval_loss"]
    weights = latch.feedback["text"]["text"].weight.detach().clone()
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    assert not torch.equal(weights, latch.feedback["text"]["text"].weight)
    with torch.no_grad():
        labels = torch.tensor([row["labels"] for row in data])
        expected = latch.eval()(input_ids=ids, attention_mask=torch.ones(32, 6).long(), labels=labels)
    found = trainer.predict(data)
    torch.testing.assert_close(torch.from_numpy(found.predictions), expected.logits, rtol=1e-4, atol=1e-5)
    assert found.label_ids.tolist() == labels.tolist()
