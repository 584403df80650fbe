"""The README as the package index shows it: links into the repository, which lead nowhere there, made absolute."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
SOURCE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Source"]

README = (ROOT / "README.md").read_text(encoding="utf-8")
setup(
    long_description=re.sub(r"\]\((?!https?:|#)", f"]({SOURCE}/blob/main/", README),
    long_description_content_type="text/markdown",
)
