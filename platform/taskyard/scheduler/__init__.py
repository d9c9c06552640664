"""Decides which worker gets which job, and runs the periodic ticks.

Each tick has a file with a ``tick(store, settings) -> report``, which may be run by hand, twice, or
by several processes at once: ``assignment`` (a pass), ``timeouts``, ``health``, ``retention``,
``statistics``. New jobs are offered to agents (``offers``), and HTTP agents poll (``polling``).
"""
