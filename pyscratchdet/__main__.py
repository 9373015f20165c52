"""`python -m pyscratchdet` is the command line."""

import sys

from pyscratchdet.cli import main

sys.exit(main())
