import io

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def picture() -> bytes:
    """Return a small picture."""
    made = io.BytesIO()
    Image.new("RGB", (640, 480), "teal").save(made, "PNG")
    return made.getvalue()
