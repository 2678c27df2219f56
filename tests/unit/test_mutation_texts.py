"""The mutations of the fault suite match today's code."""

from __future__ import annotations

import pytest
from faults.mutations import MUTATIONS, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_text_of_a_mutation_occurs_once(mutation: Mutation) -> None:
    assert mutation.occurrences(ROOT) == 1
    assert (ROOT / mutation.test.partition("::")[0]).is_file()
