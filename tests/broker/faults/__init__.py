"""The broker under faults: of its commands, its connections, the replica set and its workers."""
