"""Other people's programs on triclip's classes: `python -m conformance.clients [NAME ...]`; see docs/clients.md."""
