import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    """Tell the tests of Schemathesis apart: it gives those of a function one name."""
    label = getattr(item, "operation_label", None)
    if label is not None:
        item._id = item.id.with_params(label)  # noqa: SLF001 -- there is no other way
