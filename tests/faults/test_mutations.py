"""Each safeguard matters: a test fails once the safeguard is switched off."""

from __future__ import annotations

import pytest
from faults.mutations import MUTATIONS, Mutation, outcome_of


@pytest.mark.faults
@pytest.mark.parametrize("test", dict.fromkeys(mutation.test for mutation in MUTATIONS))
def test_the_test_of_a_mutation_passes_without_it(test: str) -> None:
    outcome = outcome_of(test, None)
    assert outcome.passed, outcome.output


@pytest.mark.faults
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_makes_its_test_fail(mutation: Mutation) -> None:
    outcome = outcome_of(mutation.test, mutation)
    assert outcome.failed, outcome.output
