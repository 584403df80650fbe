"""`python -m clip_core` is the same as `triclip`."""

import sys

from .cli import main

sys.exit(main())
