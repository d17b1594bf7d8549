"""The film rule: which pixels it makes, and what it says of files that are no films."""

from __future__ import annotations

import hashlib
import io
import random
import re
import struct
import subprocess
import sys
import tempfile
import warnings
import zlib
from collections.abc import Iterable

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.support import hostile
from tests.support.paths import SHARED
from trainer import phantom
from trainer.card import Golden
from trainer.errors import FilmError, FilmRefused
from trainer.film import content, rules

ORIGINALS = SHARED / "data" / "originals"


def scene(height: int = 300, width: int = 400) -> Image.Image:
    """A smooth gray picture in which every corner is different."""
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray((rows * 150 / height + columns * 100 / width).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def full(image: Image.Image, size: int) -> np.ndarray:
    """The rule's definition without its short cut."""
    return np.asarray(image.convert("L").resize((size, size), Image.Resampling.BILINEAR), int)


def differences(films: Iterable[bytes], size: int) -> np.ndarray:
    """|Δ gray level| between the rule and a full decode, over all pixels of all films."""
    found = []
    for data in films:
        with Image.open(io.BytesIO(data)) as image:
            expected = full(image, size)
        found.append(np.abs(rules.decode(data, size).astype(int) - expected))
    return np.stack(found)


def test_a_reduced_dct_scale_stays_close_to_a_full_decode() -> None:
    # Phantoms are grainier than any real film, and grain is what a reduced scale loses.
    found = differences((made.data for made in phantom.films(8, seed=3)), 112)
    assert found.mean() < 1.0
    assert found.mean((1, 2)).max() < 1.5


@pytest.mark.skipif(not ORIGINALS.is_dir(), reason=f"{ORIGINALS} is not here")
def test_on_real_films_a_reduced_dct_scale_changes_a_third_of_a_gray_level() -> None:
    found = differences((p.read_bytes() for p in sorted(ORIGINALS.rglob("*.jp*g"))), 224)
    assert found.mean() < 0.35
    assert np.percentile(found, 99) <= 4


def test_the_whole_film_is_stretched_and_nothing_is_cropped() -> None:
    image = scene(200, 400).point([value // 4 + 100 for value in range(256)])
    for x, y in ((0, 0), (360, 0), (0, 160), (360, 160)):
        image.paste(255, (x, y, x + 40, y + 40))
    pixels = rules.decode(encoded(image), 64)
    assert [int(pixels[y, x]) for y in (2, 61) for x in (2, 61)] == [255] * 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_orientation_is_undone(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(scene(), "JPEG", exif=exif, quality=95)
    with Image.open(io.BytesIO(data)) as image:
        expected = full(ImageOps.exif_transpose(image), 64)
    assert np.abs(rules.decode(data, 64) - expected).max() <= 2


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_tiff_is_undone(orientation: int, bits: int) -> None:
    image = scene()
    if bits == 16:
        image = Image.fromarray(np.asarray(image, np.uint16) * 257)
    stretched = np.asarray(scene(), float)
    if bits == 16:
        stretched = (stretched - stretched.min()) * 255 / np.ptp(stretched)
    oriented = Image.fromarray(stretched.astype(np.uint8))
    oriented.getexif()[0x0112] = orientation
    expected = full(ImageOps.exif_transpose(oriented), 64)
    data = encoded(image, "TIFF", tiffinfo={0x0112: orientation})
    assert np.abs(rules.decode(data, 64) - expected).max() <= 2


def test_a_damaged_exif_costs_the_orientation_and_not_the_film() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = bytearray(encoded(scene(), "JPEG", exif=exif))
    start = data.index(b"Exif")
    rng = random.Random(0)
    for _ in range(300):
        damaged = data.copy()
        for _ in range(4):
            damaged[start + 6 + rng.randrange(26)] = rng.randrange(256)
        assert rules.decode(bytes(damaged), 64).shape == (64, 64)


def test_gray_colour_palette_and_transparent_forms_of_one_picture_agree() -> None:
    gray = scene()
    expected = full(gray, 64)
    opaque = gray.convert("RGBA")
    forms = (gray, gray.convert("RGB"), gray.convert("P"), opaque, gray.convert("LA"))
    for image in forms:
        assert np.abs(rules.decode(encoded(image), 64) - expected).max() <= 1, image.mode


def test_transparency_is_laid_on_black() -> None:
    image = scene(100, 100).convert("RGBA")
    image.paste((255, 255, 255, 0), (0, 0, 50, 100))
    pixels = rules.decode(encoded(image), 100)
    assert pixels[:, :50].max() == 0
    assert (pixels[:, 50:] == np.asarray(scene(100, 100))[:, 50:]).all()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "truncated"),
        (b"<html><body>not here</body></html>", "not_an_image"),
        (b"\xff\xd8\xff", "truncated"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"\0" * 128 + b"DICM" + b"\0" * 64, "truncated"),
        (b"II*\0" + b"\0" * 64, "corrupt"),
        (b"GIF89a" + b"\0" * 64, "corrupt"),
        (b"PK\x03\x04" + b"\0" * 64, "nested_archive"),
    ],
)
def test_what_is_no_film_is_named(data: bytes, code: str) -> None:
    with pytest.raises(FilmError) as raised:
        rules.decode(data, 32)
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (b"\xff\xd8\xff\xf7\0\x0b" + bytes(64), "unsupported_format", "JPEG-LS outside DICOM"),
        (
            b"\xff\xd8\xff\xe8\0\x04ab\xff\xf8\0\x03c\xff\xf7" + bytes(64),
            "unsupported_format",
            "JPEG-LS outside DICOM is not read; convert it",
        ),
        (bytes(32_769) + b"CD001", "nested_archive", "an ISO image of a disc: unpack it"),
        (b"Rar!\x1a\x07\x01\0", "nested_archive", "a RAR archive: unpack it"),
        (b"7z\xbc\xaf\x27\x1c", "nested_archive", "a 7z archive: unpack it"),
        (
            b"--a1\r\nContent-Type: application/dicom\r\n\r\n" + bytes(128) + b"DICM" + bytes(9),
            "not_an_image",
            "save each part as a file of its own",
        ),
    ],
)
def test_what_pacs_and_discs_give_in_place_of_films_is_named_with_what_to_do(
    data: bytes, code: str, says: str
) -> None:
    with pytest.raises(FilmError, match=re.escape(says)) as raised:
        rules.decode(data, 32)
    assert raised.value.code == code


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_file_cut_short_is_never_taken_for_a_film(kind: str) -> None:
    rng = np.random.default_rng(0)
    data = encoded(Image.fromarray(rng.integers(0, 256, (120, 120), np.uint8)), kind)
    for end in range(0, len(data) * 9 // 10, 97):
        with pytest.raises(FilmError) as raised:
            rules.decode(data[:end], 64)
        assert raised.value.code in ("truncated", "corrupt"), end


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_stretched_over_what_occurs_and_not_cut_to_eight(kind: str) -> None:
    shallow = scene().point([round(i * 255 / 249) for i in range(250)] + [255] * 6)
    low, high = shallow.getextrema()
    values = (np.asarray(shallow, np.uint16) - low) * 13 + 1000
    expected = full(
        Image.fromarray(((values - 1000) / 13 * 255 / (high - low)).astype(np.uint8)), 64
    )
    assert np.abs(rules.decode(encoded(Image.fromarray(values), kind), 64) - expected).max() <= 1


def grays(levels: int, side: int = 96) -> Image.Image:
    """A picture of so many gray levels, in blocks of 8 × 8 that JPEG keeps as they are."""
    rng = np.random.default_rng(levels)
    blocks = np.arange((side // 8) ** 2) % levels
    rng.shuffle(blocks)
    blocks = (blocks * (240 // levels)).reshape(side // 8, -1).astype(np.uint8)
    return Image.fromarray(np.kron(blocks, np.ones((8, 8), np.uint8)))


@pytest.mark.parametrize("rule", sorted(rules.RULES))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "16-bit PNG", "DICOM", "16-bit DICOM"])
def test_a_film_of_fewer_than_sixteen_grays_is_refused_as_blank_and_one_of_sixteen_is_not(
    rule: str, form: str
) -> None:
    for levels in (1, 2, 15, 16, 17):
        picture = grays(levels)
        deep = np.asarray(picture, np.uint16) * 100
        data = {
            "JPEG": lambda p=picture: encoded(p, "JPEG", quality=100),
            "16-bit PNG": lambda d=deep: encoded(Image.fromarray(d)),
            "DICOM": lambda p=picture: hostile.dicom(np.asarray(p)),
            "16-bit DICOM": lambda d=deep: hostile.dicom(d),
        }.get(form, lambda p=picture: encoded(p, form))()
        assert len(set(np.asarray(picture).ravel().tolist())) == levels
        if levels >= 16:
            assert rules.decode(data, 64, rule).shape == (64, 64)
            continue
        said = "shows one gray" if levels == 1 else f"shows {levels} grays"
        with pytest.raises(FilmRefused, match=said) as raised:
            rules.decode(data, 64, rule, accept=[*rules.REFUSALS, "blank"])
        assert raised.value.code == "blank"


def test_a_film_that_is_mostly_black_is_not_blank() -> None:
    image = Image.new("L", (2000, 2000))
    image.paste(scene(40, 40), (900, 900))
    assert rules.decode(encoded(image), 64).max() > 0


def test_a_png_keeps_its_orientation_where_another_chunk_is_damaged() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = b'<x xmlns:tiff="t" tiff:Orientation="6"/>'
    expected = full(scene().transpose(Image.Transpose.ROTATE_270), 64)
    turned = [
        encoded(scene(), exif=exif),
        hostile.with_chunks(encoded(scene()), (b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + xmp)),
        hostile.with_chunks(
            encoded(scene()),
            (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)),
        ),
    ]
    for data in turned:
        assert np.abs(rules.decode(data, 64) - expected).max() <= 1
        damaged = hostile.with_chunks(data, (b"pHYs", bytes(9)), sound=False)
        assert np.abs(rules.decode(damaged, 64) - expected).max() <= 1


def test_what_is_wrong_is_said_in_words_and_not_by_the_name_of_an_exception() -> None:
    for bad in hostile.bad_files():
        if bad.name.endswith(".dcm"):
            continue
        with pytest.raises(FilmError) as raised:
            rules.decode(bad.data, 64)
        assert not re.search(r"[A-Z][a-z]+(Error|Exception)|PngImagePlugin", str(raised.value))


CASES = SHARED / "cases"


@pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases")
@pytest.mark.parametrize("name", ["bad_crc_pHYs", "iccp_2mb"])
def test_a_png_with_sound_pixels_is_the_film_that_was_encoded(name: str) -> None:
    torchvision = pytest.importorskip("torchvision.io")
    path = CASES / "png" / f"{name}.png"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        by_libpng = torchvision.decode_image(str(path), torchvision.ImageReadMode.GRAY)
    assert np.array_equal(np.asarray(rules.gray(path.read_bytes())), by_libpng[0].numpy())


@pytest.mark.parametrize("rule", sorted(rules.RULES))
@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (64, 64), (40, 2000), (1000, 41)])
def test_the_field_of_a_rule_is_the_part_of_the_film_that_its_pixels_show(
    rule: str, shape: tuple[int, int]
) -> None:
    rng = np.random.default_rng(shape[0])
    coarse = Image.fromarray(rng.integers(0, 256, [-(-n // 60) for n in shape], np.uint8))
    film = coarse.resize(shape[::-1], Image.Resampling.BICUBIC)
    data = encoded(film)
    assert np.array_equal(np.asarray(rules.gray(data)), np.asarray(film))
    shown = film.resize((64, 64), Image.Resampling.BILINEAR, rules.field(rule, *film.size, 64))
    apart = np.abs(rules.decode(data, 64, rule) - np.asarray(shown, int))
    # One pixel in the place of many lies anywhere among them.
    assert apart.mean() < (25 if rule == "gray-nearest-1" else 2)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_of_colour_and_transparency_are_refused_by_name(
    colour: int, channels: int
) -> None:
    header = struct.pack(">2I5B", 64, 64, 16, colour, 0, 0, 0)
    rows = zlib.compress(64 * (b"\0" + bytes(64 * channels * 2)))
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    with pytest.raises(FilmError, match="8 bits") as raised:
        rules.decode(data, 32)
    assert raised.value.code == "unsupported_pixels"


def test_cmyk_is_refused_by_name() -> None:
    with pytest.raises(FilmError) as raised:
        rules.decode(encoded(Image.new("CMYK", (64, 64)), "JPEG"), 32)
    assert raised.value.code == "unsupported_pixels"


def test_the_luma_beside_chroma_is_that_of_a_decode_to_luma() -> None:
    gray = Image.fromarray(np.asarray(scene(900, 1200)) ^ np.uint8(3))
    colour = Image.merge("RGB", (gray, gray.rotate(180), gray.point([255 - i for i in range(256)])))
    for options in ({}, {"subsampling": 0}, {"progressive": True}, {"keep_rgb": True}):
        for image in (gray.convert("RGB"), colour):
            data = encoded(image, "JPEG", **options)
            with Image.open(io.BytesIO(data)) as reduced:
                reduced.draft("L", (336, 336))
                expected = np.asarray(reduced.resize((224, 224), Image.Resampling.BILINEAR))
            if image is not colour:
                assert (rules.decode(data, 224) == expected).all(), options
            assert (rules.decode(data, 224, accept=["colour"]) == expected).all(), options


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_a_colour_picture_is_refused_and_a_small_marker_is_not(kind: str) -> None:
    film_with_marker = scene().convert("RGB")
    film_with_marker.paste((255, 255, 0), (10, 10, 40, 30))
    assert rules.decode(encoded(film_with_marker, kind), 64).shape == (64, 64)
    film_with_marker.paste((90, 60, 0), (100, 0, 400, 300))
    with pytest.raises(FilmRefused, match="accept colour") as raised:
        rules.decode(encoded(film_with_marker, kind), 64)
    assert raised.value.code == "colour"


@pytest.mark.skipif(not ORIGINALS.is_dir(), reason=f"{ORIGINALS} is not here")
def test_no_real_film_is_taken_for_a_colour_picture() -> None:
    paths = [
        *ORIGINALS.rglob("*.jp*g"),
        *sorted(ORIGINALS.parent.rglob("kermany_224/**/*.jp*g"))[::10],
    ]
    assert len(paths) > 600
    for path in paths:
        rules.decode(path.read_bytes(), 64)


@pytest.mark.parametrize("interlaced", [0, 1])
def test_a_png_with_too_few_rows_is_truncated_and_a_dark_one_is_not(interlaced: int) -> None:
    header = struct.pack(">2I5B", 64, 64, 8, 0, 0, 0, interlaced)
    passes = ((8, 8), (8, 8), (16, 8), (16, 16), (32, 16), (32, 32), (64, 32))
    rows = b"".join(bytes(1 + w) * h for w, h in passes) if interlaced else bytes(64 * 65)
    # Gray in the first pass or row, black from there on.
    ramp = (
        b"".join(bytes([0, *range(8 * n, 8 * n + 8)]) for n in range(8))
        if interlaced
        else bytes(range(65))
    )
    rows = b"\0" + ramp[1:] + rows[len(ramp) :]
    dark = rules.decode(hostile.png(header, (b"IDAT", zlib.compress(rows))), 64)
    assert dark.max() <= 64
    with pytest.raises(FilmError, match="of its rows") as raised:
        rules.decode(hostile.png(header, (b"IDAT", zlib.compress(rows[:-65]))), 32)
    assert raised.value.code == "truncated"


def test_a_small_film_loads_no_dicom_reader() -> None:
    code = "import sys; from trainer.film import rules; "
    code += "rules.decode(open(sys.argv[1], 'rb').read(), 32); "
    code += "sys.exit('pydicom' in sys.modules)"
    with tempfile.NamedTemporaryFile() as file:
        file.write(encoded(scene()))
        file.flush()
        subprocess.run([sys.executable, "-c", code, file.name], check=True)


def test_an_icon_is_refused_and_not_an_error() -> None:
    with pytest.raises(FilmRefused) as raised:
        rules.decode(encoded(Image.new("L", (31, 200))), 32)
    assert raised.value.code == "too_small"


def test_a_decompression_bomb_is_named_before_it_is_decoded() -> None:
    bomb = bytearray(encoded(Image.new("L", (64, 64))))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height in IHDR
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    with pytest.raises(FilmError) as raised:
        rules.decode(bytes(bomb), 32)
    assert raised.value.code == "too_large"


def test_pixels_go_where_the_caller_wants_them() -> None:
    data = encoded(scene())
    place = np.zeros(32 * 32, np.uint8)
    rules.decode(data, 32, out=place)
    assert (place.reshape(32, 32) == rules.decode(data, 32)).all()


@pytest.mark.parametrize("rule", sorted(rules.RULES))
def test_golden_vectors_hold_here_and_catch_another_rule(rule: str) -> None:
    vectors = rules.golden(rule)
    rules.check_golden(vectors, rule)
    wrong = Golden(film=vectors[0].film, pixels=vectors[0].pixels + np.uint8(5))
    with pytest.raises(FilmError, match="differs by") as raised:
        rules.check_golden([*vectors[1:], wrong], rule)
    assert raised.value.code == "rule_mismatch"


@pytest.mark.parametrize(
    ("width", "height"), [(64, 64), (301, 203), (117, 400), (40, 33), (40, 900)]
)
@pytest.mark.parametrize("size", [48, 64])
def test_the_nearest_rule_takes_the_pixels_that_imagenet_takes(
    width: int, height: int, size: int
) -> None:
    grain = np.random.default_rng(width).integers(0, 256, (height, width), np.uint8)
    found = rules.decode(encoded(Image.fromarray(grain)), size, "gray-nearest-1")
    for y in range(size):
        for x in range(size):
            dy = int(np.float32(y) * (np.float32(height) / np.float32(size)))
            dx = int(np.float32(x) * (np.float32(width) / np.float32(size)))
            assert found[y, x] == grain[dy, dx]


@pytest.mark.parametrize(
    ("width", "height"), [(64, 64), (301, 203), (117, 400), (40, 33), (40, 900)]
)
@pytest.mark.parametrize("size", [48, 64])
def test_the_crop_rule_makes_the_pixels_that_torchvision_makes(
    width: int, height: int, size: int
) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    reference = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size)])
    for kind in ("PNG", "JPEG"):
        grain = np.random.default_rng(width).integers(0, 256, (height, width), np.uint8)
        data = encoded(Image.fromarray(grain), kind)
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(reference(image.convert("RGB")))
        assert (expected == rules.decode(data, size, "gray-crop-1")[..., None]).all()


def test_the_crop_rule_survives_a_strip_of_film() -> None:
    image = scene(32, 60_000)
    middle = np.asarray(image)[:, 29_900:30_100].astype(int)
    pixels = rules.decode(encoded(image), 64, "gray-crop-1")
    assert np.abs(pixels.mean(1) - np.repeat(middle.mean(1), 2)).max() <= 4


def test_an_unknown_rule_is_a_lookup_error() -> None:
    with pytest.raises(LookupError, match="gray-stretch-1"):
        rules.decode(b"", 32, "gray-stretch-99")


def test_of_what_is_accepted_a_film_tells_which_it_needed() -> None:
    everything = frozenset(rules.REFUSALS)
    colour = Image.merge("RGB", (scene(), scene().rotate(180), scene()))
    frames = {"save_all": True, "append_images": [scene(31, 400)]}
    films = {
        encoded(scene(), "JPEG"): set(),
        encoded(scene().convert("RGB"), "JPEG"): set(),
        encoded(colour, "JPEG"): {"colour"},
        encoded(colour, "JPEG", keep_rgb=True): {"colour"},
        encoded(scene().convert("RGB")): set(),
        encoded(colour): {"colour"},
        encoded(scene(31, 400)): {"too_small"},
        encoded(scene(31, 400), "TIFF", **frames): {"too_small", "multi_frame"},
        encoded(colour, "WEBP"): {"colour"},
        hostile.dicom(): set(),
        hostile.dicom(ViewPosition="LL", BurnedInAnnotation="YES"): {"lateral", "burned_in"},
        hostile.dicom(Modality="CT", BodyPartExamined="KNEE"): {"modality", "body_part"},
        hostile.dicom(PresentationIntentType="FOR PROCESSING"): {"for_processing"},
    }
    for data, expected in films.items():
        needed: set[str] = set()
        made = rules.decode(data, 64, accept=everything, overridden=needed)
        assert needed == expected, data[:20]
        # Whoever accepts these and no others has the same pixels.
        assert (rules.decode(data, 64, accept=needed) == made).all()
        for code in needed:
            with pytest.raises(FilmRefused, match=f"--accept {code}`"):
                rules.decode(data, 64, accept=needed - {code})


def test_every_kind_of_file_has_a_reader_with_a_version() -> None:
    films = {
        "JPEG": encoded(scene(), "JPEG"),
        "PNG": encoded(scene()),
        "TIFF": encoded(scene(), "TIFF"),
        "BMP": encoded(scene(), "BMP"),
        "GIF": encoded(scene(), "GIF"),
        "WEBP": encoded(scene(), "WEBP"),
        "DICOM": hostile.dicom(),
        "": b"no film",
    }
    assert films.keys() == content.READERS.keys()
    for kind, data in films.items():
        assert content.reader(data) == (kind, content.READERS[kind])
    bare = hostile.written(hostile.dataset(), preamble=False)
    assert content.reader(bare) == content.reader(films["DICOM"])


#: Kind of file → version of its reader, and what it makes of drawn films. Of what is compressed
#: with loss each build of a decoder makes something a little different, so that none is here.
MADE = {
    "DICOM": (2, "249dc26211e75919"),
    "PNG": (1, "065fddb331f91fb8"),
}


@pytest.mark.parametrize("kind", MADE)
def test_a_reader_that_makes_other_pixels_has_another_version(kind: str) -> None:
    """Whoever changes the pixels raises the version in `content.READERS`, and both here."""
    ramp = np.add.outer(np.arange(64), np.arange(64))  # at its own size, so that nothing is resized
    gray, deep = ramp.astype(np.uint8), (ramp * 500).astype(np.uint16)
    films = {
        "PNG": [encoded(Image.fromarray(gray)), encoded(Image.fromarray(deep)),
                encoded(Image.merge("RGB", [Image.fromarray(gray)] * 3))],
        "DICOM": [
            hostile.dicom(gray), hostile.dicom(deep),
            hostile.dicom(deep, PhotometricInterpretation="MONOCHROME1"),
            hostile.dicom(deep, WindowCenter=20_000, WindowWidth=30_000),
            hostile.dicom(deep, WindowCenter=9, WindowWidth=99, RescaleSlope=0.01,
                          RescaleIntercept=-100, VOILUTFunction="SIGMOID"),
            hostile.dicom(deep, PixelPaddingValue=0),
        ],
    }[kind]  # fmt: skip
    made = hashlib.sha256(b"".join(rules.decode(data, 64).tobytes() for data in films))
    assert (content.READERS[kind], made.hexdigest()[:16]) == MADE[kind]
