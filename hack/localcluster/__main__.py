"""`python -m localcluster`: the same as `hack/cluster`."""

import sys

from localcluster.cli import main

sys.exit(main())
