from pathlib import Path

from PIL import Image

GPS, ORIENTATION = 0x8825, 0x0112


def test_the_picture_is_as_large_as_a_phones(picture: Path) -> None:
    with Image.open(picture) as image:
        assert image.format == "JPEG"
        assert image.width * image.height >= 8_000_000


def test_the_picture_lies_on_its_side_and_says_where_it_was_taken(
    picture: Path,
) -> None:
    with Image.open(picture) as image:
        exif = image.getexif()
        assert exif[ORIENTATION] == 6
        assert exif.get_ifd(GPS)[1] == "N"


def test_the_sky_is_above_the_ground(picture: Path) -> None:
    with Image.open(picture) as image:
        # stored with its top to the left
        sky = image.getpixel((10, image.height // 2))
        ground = image.getpixel((image.width - 10, image.height // 2))
        assert isinstance(sky, tuple)
        assert isinstance(ground, tuple)
        assert sum(sky) > sum(ground)
