"""How deep JSON is, from its bytes alone."""

import json

from hypothesis import given, strategies as st

from asyncflow.nesting import MOST_LEVELS, is_too_deep

leaves = st.text() | st.integers() | st.none()
values = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


def wrapped(value: object, levels: int) -> bytes:
    for level in range(levels):
        value = [value, "]{"] if level % 2 else {'"}\\': value}
    return json.dumps(value).encode()


@given(leaves)
def test_as_many_levels_as_are_allowed_are_not_too_deep(leaf: object) -> None:
    assert not is_too_deep(wrapped(leaf, MOST_LEVELS))
    assert is_too_deep(wrapped(leaf, MOST_LEVELS + 1))
    assert not is_too_deep(wrapped(leaf, MOST_LEVELS + 2), outside=2)
    assert is_too_deep(wrapped(leaf, MOST_LEVELS + 3), outside=2)


@given(values)
def test_what_is_wide_is_not_deep(value: object) -> None:
    data = json.dumps([value] * 200).encode()

    assert not is_too_deep(data, outside=50)


def test_brackets_in_strings_do_not_count() -> None:
    assert not is_too_deep(json.dumps(["[" * 500, '\\"' + "{" * 500]).encode())
