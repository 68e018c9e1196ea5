import io
import struct
import zlib
from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import pytest


class Maker:
    """Makes files of every kind that the processors meet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def picture(
        self,
        name: str,
        *,
        size: tuple[int, int] = (640, 360),
        mode: str = "RGB",
        color: object = (200, 30, 40),
        **save: object,
    ) -> Path:
        """A picture, red on the left and blue on the right unless *mode* is other."""
        picture = PIL.Image.new(mode, size, color)  # type: ignore[arg-type]
        if mode == "RGB":
            draw = PIL.ImageDraw.Draw(picture)
            draw.rectangle((size[0] // 2, 0, *size), fill=(20, 40, 220))
        path = self.folder / name
        picture.save(path, **save)  # type: ignore[arg-type]
        return path

    def photo(self, name: str, *, orientation: int = 1) -> Path:
        """A JPEG with EXIF: an orientation and a place on earth."""
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        exif.get_ifd(0x8825)[2] = (48.0, 51.0, 30.0)
        return self.picture(name, exif=exif)

    def animation(self, name: str, *, frames: int, size: tuple[int, int]) -> Path:
        """A GIF or WebP whose frames differ."""
        shades = [
            PIL.Image.new("RGB", size, (n * 250 // frames, 80, 20))
            for n in range(frames)
        ]
        path = self.folder / name
        shades[0].save(path, save_all=True, append_images=shades[1:], duration=50)
        return path

    def huge_png(self, name: str, side: int) -> Path:
        """A PNG of *side* x *side* pixels in a few bytes, with no pixel data."""

        def chunk(kind: bytes, data: bytes) -> bytes:
            check = struct.pack(">I", zlib.crc32(kind + data))
            return struct.pack(">I", len(data)) + kind + data + check

        head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        data = zlib.compress(b"\0" * 100)
        path = self.folder / name
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", head)
            + chunk(b"IDAT", data)
            + chunk(b"IEND", b"")
        )
        return path

    def pdf(
        self,
        name: str,
        *,
        pages: int = 1,
        side: float = 595,
        content: bytes = b"0 0 m",
        extra: bytes = b"",
        filters: bytes = b"/FlateDecode",
    ) -> Path:
        """A PDF whose pages share one deflated content stream."""
        kids = b" ".join(b"%d 0 R" % (4 + n) for n in range(pages))
        objects = [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Count %d /Kids [%s] >>" % (pages, kids),
            b"<< /Length %d /Filter %s %s >>\nstream\n%s\nendstream"
            % (len(content), filters, extra, content),
        ]
        page = b"<< /Type /Page /Parent 2 0 R /Contents 3 0 R /MediaBox [0 0 %f %f] >>"
        objects += [page % (side, side)] * pages
        out = io.BytesIO()
        out.write(b"%PDF-1.7\n")
        starts = []
        for number, text in enumerate(objects, 1):
            starts.append(out.tell())
            out.write(b"%d 0 obj\n%s\nendobj\n" % (number, text))
        table = out.tell()
        out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
        out.writelines(b"%010d 00000 n \n" % start for start in starts)
        out.write(b"trailer << /Size %d /Root 1 0 R >>\n" % (len(objects) + 1))
        out.write(b"startxref\n%d\n%%%%EOF\n" % table)
        path = self.folder / name
        path.write_bytes(out.getvalue())
        return path

    def text(self, name: str, data: bytes | str) -> Path:
        path = self.folder / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a worker: Tesseract's threads get in each other's way."""
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")
