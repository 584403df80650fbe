"""The parts that the tokenizers in `clip_core.text.tokenizer` are made of. Nothing here imports a framework."""
