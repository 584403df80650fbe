"""Shared by all tests: golden files in tests/golden, cases and adaptors in conformance/."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for the network
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
