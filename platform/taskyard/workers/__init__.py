"""Workers as values, and placement. No I/O and no clock reads in this package."""
