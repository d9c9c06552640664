"""``taskyard up``: everything on one machine, for as long as it runs."""
