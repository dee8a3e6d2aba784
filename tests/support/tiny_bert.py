"""A real BERT that is made in a blink and knows few words."""

from collections.abc import Sequence
from pathlib import Path


def tiny_bert(folder: Path, words: Sequence[str], spread: float = 0.5) -> Path:
    """Two layers of 32, weights of deviation `spread` by seed 1, and a tokenizer of these words."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    torch.manual_seed(1)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(known), encoding="utf-8")
    BertTokenizer(str(vocabulary)).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(known),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=spread,
    )
    BertModel(config).save_pretrained(folder)
    return folder
