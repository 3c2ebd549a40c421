"""``python -m kedge_services.cli`` is ``kedge``."""

import sys

from kedge_services.cli import main

sys.exit(main())
