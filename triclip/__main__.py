"""`python -m triclip` is the same as `triclip`."""

import sys

from .cli import main

sys.exit(main())
