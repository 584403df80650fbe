"""The tokenizers of `clip_core.text.tokenizer` and their parts. Nothing here imports a framework."""
