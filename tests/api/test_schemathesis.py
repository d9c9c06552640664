"""The API against its OpenAPI document: schemathesis looks for answers that are not in it."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
)

from taskyard.api.app import create_app
from taskyard.context import Platform

#: These answer until a job ends, and none ends here; ``test_follow.py`` tests them.
STREAMS = ["followJob", "execute"]

EXAMPLES = 25

# A schema cannot say that a file must exist or that a page token must be one of ours. So data that
# fits the schema may be refused, and the check ``positive_data_acceptance``, alone, is left out.


@pytest.fixture
def described(platform: Platform) -> Any:
    """The served OpenAPI document, and the headers of an operator's requests."""
    token = platform.store.tokens.create(role="operator", name="schemathesis")
    app = create_app(platform)
    headers = {"Authorization": f"Bearer {token}"}
    return schemathesis.openapi.from_wsgi("/api/openapi.json", app, headers=headers), headers


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_500_and_no_answer_outside_the_schema(described: Any, mode: GenerationMode) -> None:
    schema, headers = described
    asked = 0
    for found in schema.exclude(operation_id=STREAMS).get_all_operations():
        asked += _ask(found.ok(), mode, headers)
    assert asked > EXAMPLES * 10


def _ask(operation: Any, mode: GenerationMode, headers: dict[str, str]) -> int:
    """Call the operation with generated requests, and return how many there were."""
    asked = 0

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def call(case: Any) -> None:
        nonlocal asked
        asked += 1
        excluded = [positive_data_acceptance]
        if any(value in ([], {}) for value in (case.query or {}).values()):
            # No query string can carry an empty list or object: the rest, which is sent, is valid.
            excluded.append(negative_data_rejection)
        case.call_and_validate(headers=headers, excluded_checks=excluded)

    try:
        call()
    except schemathesis.errors.SerializationNotPossible:
        return 0
    return asked
