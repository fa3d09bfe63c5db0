"""open_image: every kind of picture comes out as the same 8-bit RGB."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from hfxfer.errors import DataError
from hfxfer.images import check_image, is_image_name, open_image


def saved(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return str(path)


def corner(image):
    return image.getpixel((0, 0))


def test_a_path_bytes_a_dict_and_the_image_itself_give_the_same_pixels(tmp_path):
    image = Image.fromarray(np.arange(90, dtype=np.uint8).reshape(5, 6, 3))
    path = saved(tmp_path, image, "a.png")
    content = open(path, "rb").read()
    for value in (path, content, {"bytes": content, "path": None}, {"bytes": None, "path": path}, image,
                  np.asarray(image), np.asarray(image).transpose(2, 0, 1), np.asarray(image) / 255.0):
        opened = open_image(value)
        assert opened.mode == "RGB"
        assert np.array_equal(np.asarray(opened), np.asarray(image))


@pytest.mark.parametrize("suffix", ["jpg", "webp", "png", "tiff"])
def test_exif_rotation_is_applied(tmp_path, suffix):
    wide = Image.new("RGB", (20, 10), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # Rotate by 90° to see it upright.
    assert open_image(saved(tmp_path, wide, f"a.{suffix}", exif=exif)).size == (10, 20)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_hurt(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (20, 10), "red"), "a.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert open_image(path).size == (20, 10)


def test_transparency_is_composited_on_white(tmp_path):
    rgba = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert corner(open_image(saved(tmp_path, rgba, "rgba.png"))) == (255, 255, 255)
    assert corner(open_image(Image.new("RGBA", (4, 4), (255, 0, 0, 51)))) == (255, 204, 204)  # 0.2 red + 0.8 white
    assert corner(open_image(saved(tmp_path, Image.new("LA", (4, 4), (0, 0)), "la.png"))) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 255, 0, 255, 0])
    assert corner(open_image(saved(tmp_path, palette, "p.png"))) == (0, 0, 255)
    assert corner(open_image(saved(tmp_path, palette, "p.gif", transparency=0))) == (255, 255, 255)
    grey = Image.new("L", (4, 4), 7)
    assert corner(open_image(saved(tmp_path, grey, "l.png", transparency=7))) == (255, 255, 255)


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    deep = Image.fromarray(np.array([[0, 32896], [257, 65535]], dtype=np.uint16))
    for name in ("a.png", "a.tiff"):
        assert np.asarray(open_image(saved(tmp_path, deep, name)))[..., 0].tolist() == [[0, 128], [1, 255]]
    assert np.asarray(open_image(np.array([[0, 65535]], dtype=np.uint16)))[..., 1].tolist() == [[0, 255]]


def test_float_grey_is_scaled_by_its_range(tmp_path):
    unit = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert np.asarray(open_image(saved(tmp_path, unit, "a.tiff")))[..., 0].tolist() == [[0, 128, 255]]
    eight_bit = Image.fromarray(np.array([[0.0, 100.0, 255.0]], dtype=np.float32))
    assert np.asarray(open_image(eight_bit))[..., 0].tolist() == [[0, 100, 255]]
    integers = Image.fromarray(np.array([[0, 65535]], dtype=np.int32))
    assert np.asarray(open_image(integers))[..., 0].tolist() == [[0, 255]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "I;16", "I", "F", "LA", "PA", "RGBA", "RGBX"])
def test_every_mode_comes_out_as_rgb(mode):
    assert open_image(Image.new(mode, (3, 2))).mode == "RGB"


def test_cmyk_black_stays_black(tmp_path):
    black = Image.new("CMYK", (8, 8), (0, 0, 0, 255))
    assert max(corner(open_image(saved(tmp_path, black, "a.jpg")))) <= 2


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "green", "blue")]
    for name in ("a.gif", "a.webp", "a.png"):
        path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], **(
            {"lossless": True} if name.endswith("webp") else {}))
        assert corner(open_image(path)) == (255, 0, 0)
    moved = Image.open(path)
    moved.seek(2)
    assert corner(open_image(moved)) == (255, 0, 0)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("1", (100, 100)), "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError) as error:
        open_image(path)
    assert str(error.value).startswith(f"{path}: too many pixels to be a photograph (Image size (10000 pixels)")
    assert str(error.value).endswith("Make it smaller, or remove it")


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp"])
@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
def test_a_picture_cut_short_is_found(tmp_path, suffix, kept):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), f"a.{suffix}")
    content = open(path, "rb").read()
    cut = content[: int(len(content) * kept)]
    check_image(content, "a")
    with pytest.raises(DataError, match="^a: (corrupt or cut short|not an image)"):
        check_image(cut, "a")
    with pytest.raises(DataError, match="^image: (corrupt or cut short|not an image)"):
        open_image(cut)


def test_a_progressive_jpeg_cut_short_is_found(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    content = open(saved(tmp_path, Image.fromarray(noise), "a.jpg", progressive=True), "rb").read()
    with pytest.raises(DataError, match="corrupt or cut short"):
        check_image(content[: len(content) // 2], "a")


def test_checking_leaves_a_callers_image_as_it_is(tmp_path):
    image = Image.open(saved(tmp_path, Image.new("RGB", (64, 64), "red"), "a.jpg"))
    check_image(image, "a")
    assert image.size == (64, 64)


def test_what_is_no_picture_is_named(tmp_path):
    text = tmp_path / "a.jpg"
    text.write_text("this is text")
    with pytest.raises(DataError) as error:
        open_image(text)
    assert str(error.value) == (f"{text}: not an image, or in a format that Pillow cannot read. "
                                "Convert it to PNG or JPEG, or remove it")
    empty = tmp_path / "b.jpg"
    empty.touch()
    with pytest.raises(DataError) as error:
        open_image({"bytes": None, "path": str(empty)})
    assert str(error.value) == f"{empty}: the file is empty (0 bytes)"
    with pytest.raises(DataError) as error:
        open_image(str(tmp_path / "c.jpg"))
    assert str(error.value) == f"{tmp_path / 'c.jpg'}: file not found"
    with pytest.raises(DataError, match=r"shape \(2, 2, 7\); allowed are 1, 3 or 4 channels"):
        open_image(np.zeros((2, 2, 7), dtype=np.uint8))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_no_file_stays_open(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (4, 4)), "a.gif", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    before = len(os.listdir("/proc/self/fd"))
    kept = [open_image(path) for _ in range(20)]
    assert len(os.listdir("/proc/self/fd")) == before and len(kept) == 20


def test_names_of_pictures_are_known_in_any_letter_case():
    assert all(map(is_image_name, ("a.JPG", "a.webp", "A.Jpeg", "x/y.TIF")))
    assert not any(map(is_image_name, ("a.txt", "jpg", "", None, 3)))


def test_a_picture_from_a_stream_is_taken(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), "red").save(buffer, "PNG")
    assert open_image(Image.open(buffer)).size == (5, 4)
