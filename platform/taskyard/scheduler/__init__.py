"""The ticks, one a file: ``tick(store, settings) -> report``. Each can be run by hand, twice,
and by several at once.
"""
