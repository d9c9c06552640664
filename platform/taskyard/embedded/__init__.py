"""Our own MongoDB: a real ``mongod`` on loopback for as long as ``taskyard up`` runs.

A one-member replica set, so change streams, transactions and majority writes work exactly as in
production; with access control, because jobs run on the same host.
"""

from taskyard.embedded.binary import find_mongod
from taskyard.embedded.folder import running_uri
from taskyard.embedded.server import EmbeddedServer, dies_with_us

__all__ = ["EmbeddedServer", "dies_with_us", "find_mongod", "running_uri"]
