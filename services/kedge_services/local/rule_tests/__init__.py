"""``kedge test``: written-out series in, expected alerts and retrain requests out.

The windows are made here, everything after them is what runs live: the rules of
:mod:`kedge_services.core.rules` and the triggers of
:mod:`kedge_services.core.triggers`.

=============  =============================================================
``notation``   series as they are written: ``0.9x10 0.7x3 _``
``declared``   what a file of tests may say, and what is wrong with one
``windows``    the decided windows that a test's series make
``run``        one test: windows through rules and triggers, against what is
               expected
=============  =============================================================
"""

from __future__ import annotations
