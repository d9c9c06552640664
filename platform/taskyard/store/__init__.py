"""Everything that reads or writes MongoDB; the only package that knows pymongo."""
