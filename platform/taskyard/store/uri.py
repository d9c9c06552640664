"""Which MongoDB to use: the one that is named, or that of a running ``taskyard up``."""

from __future__ import annotations

from taskyard import embedded
from taskyard.errors import ConfigurationError
from taskyard.settings import Settings


def resolve_uri(settings: Settings) -> str:
    """The URI to connect to. Raises ConfigurationError when nothing names one."""
    uri = settings.mongodb_uri or embedded.running_uri(settings.data_dir)
    if not uri:
        raise ConfigurationError(
            "MONGODB_URI is not set and no `taskyard up` of yours is running here. "
            "Set MONGODB_URI to a replica set, or start `taskyard up`."
        )
    return uri
