"""The broker across faults: of its commands, of its connections, of the set, of the worker."""
