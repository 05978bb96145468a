"""`python -m medretrieval` is the command `medretrieval`."""

import sys

from medretrieval.cli import main

sys.exit(main())
