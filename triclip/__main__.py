"""`python -m triclip` is the same as `triclip`."""

import sys

from .command import main

sys.exit(main())
