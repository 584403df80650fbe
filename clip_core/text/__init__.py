"""The parts that the tokenizers in `clip_core.tokenizer` are made of. Nothing here imports a framework."""
