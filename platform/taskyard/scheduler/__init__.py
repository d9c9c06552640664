"""Who gets which job when. The ticks, one a file (``tick(store, settings) -> report``), can each be
run by hand, twice, and by several at once: ``assignment`` (a pass), ``timeouts``, ``health``,
``retention``, ``statistics``. New jobs are offered (``offers``), and HTTP agents ask (``polling``).
"""
