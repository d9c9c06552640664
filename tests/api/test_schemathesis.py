"""The API against its own description: schemathesis looks for what it does not say."""

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

#: These hold the line until a job ends, and none ends here; ``test_follow.py`` has them.
STREAMS = ["followJob", "execute"]

EXAMPLES = 25

# A schema cannot say that a file must exist or that a page token must be one of ours: data that
# fits it may be refused, so ``positive_data_acceptance`` alone is left out.


@pytest.fixture
def described(platform: Platform) -> Any:
    """The served OpenAPI document, asked for as an operator."""
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
    """Call the operation with what schemathesis makes up; returns how often."""
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
            # No query string can carry it: what was asked is the valid rest.
            excluded.append(negative_data_rejection)
        case.call_and_validate(headers=headers, excluded_checks=excluded)

    try:
        call()
    except schemathesis.errors.SerializationNotPossible:
        return 0
    return asked
