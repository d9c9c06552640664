"""Which MongoDB to use: the one that MONGODB_URI names, or that of a running ``taskyard up``."""

from __future__ import annotations

from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from taskyard import embedded
from taskyard.errors import ConfigurationError
from taskyard.settings import Settings
from taskyard.store.failures import first_sentence


def resolve_uri(settings: Settings) -> str:
    """The URI to connect to. Raises ConfigurationError when there is none or it is not valid."""
    uri = settings.mongodb_uri or embedded.running_uri(settings.data_dir)
    if not uri:
        raise ConfigurationError(
            "MONGODB_URI is not set and no `taskyard up` of yours is running here. "
            "Set MONGODB_URI to a replica set, or start `taskyard up`."
        )
    if uri.startswith("mongodb+srv://"):
        return uri  # to check more of it, names would have to be resolved
    try:
        # The driver would ignore an option that it does not know, but the broker's client, which is
        # given options by name, could not be made with it.
        parse_uri(uri, warn=False)
    except (PyMongoError, ValueError, OSError) as error:
        raise ConfigurationError(f"MONGODB_URI cannot be used: {first_sentence(error)}") from None
    return uri
