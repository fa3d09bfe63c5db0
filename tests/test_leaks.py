"""What should not be published is found, and what only looks alike is not. The secrets here are made up, and put together at run time."""

import io
import json
import struct

import pytest

from hfxfer.leaks import Finding, find

LETTERS = "aB3dE6gH9jK2mN5pQ8sT1vW4xY7zA0cD3fG6hJ9k"
SECRETS = {
    "Hub token": "hf" + "_" + LETTERS[:34],
    "AWS key": "AK" + "IA" + "ABCDEFGHIJKLMNOP",
    "GitHub token": "gh" + "p_" + LETTERS[:36],
    "GitLab token": "gl" + "pat-" + LETTERS[:20],
    "Google key": "AI" + "za" + LETTERS[:35],
    "OpenAI or Anthropic key": "sk" + "-proj-" + LETTERS,
    "Slack token": "xo" + "xb-" + "1234567890-abc",
    "Stripe key": "sk" + "_live_" + LETTERS[:24],
    "PyPI token": "pypi" + "-AgE" + LETTERS[:30],
    "JSON web token": "ey" + f"J{LETTERS[:12]}.eyJ{LETTERS[:12]}.{LETTERS[:12]}",
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "password in an address": "https://me:" + "hunter22@host.org/x",
    "key": "wandb_api_key: " + "0123456789abcdef" * 2,
}


def found(tmp_path, name, content, **more):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return find(tmp_path, [name], **more)


@pytest.mark.parametrize("what", SECRETS)
def test_a_secret_is_found_and_not_shown(tmp_path, what):
    secret = SECRETS[what]
    [finding] = found(tmp_path, "README.md", f"first\nxy {secret} z\n")
    assert finding == Finding("README.md", "line 2, column 4" if what != "key" else "line 2, column 10", what, finding.seen)
    assert len(finding.seen) == 5 and finding.seen[-1] == "…" and secret not in str(finding)


def test_people_and_their_folders_are_found_with_their_place(tmp_path):
    text = 'by ada.smith+x@uni.ac.uk\n{"path": "/home/ada/pets"} C:\\\\Users\\\\ada\\\\x /Users/ada/x /root/w\n'
    assert [str(finding) for finding in found(tmp_path, "a/b.json", text)] == [
        "a/b.json, line 1, column 4: e-mail ada.smith+x@uni.ac.uk", "a/b.json, line 2, column 11: home directory /home/ada",
        "a/b.json, line 2, column 28: home directory C:\\\\Users\\\\ada", "a/b.json, line 2, column 46: home directory /Users/ada",
        "a/b.json, line 2, column 59: home directory /root/w"]


@pytest.mark.parametrize("text", [
    "git clone git@github.com:me/x", "https://me@github.com/x", "user@example.com", "photo@2x.png", "@media", "a @ b.com",
    "https://site.org/home/page/1", "see /home for more", "/Users/", '"pad_token": "[PAD]"', "sk-learn is a library", "hf_hub_download",
    "api_key: none", "tokenizers/home/x/y", "hf_1234", "https://host.org:8080/a@b"])
def test_what_only_looks_alike_is_not_found(tmp_path, text):
    assert found(tmp_path, "x.txt", text) == []


def test_of_weights_the_header_is_read_and_nothing_else(tmp_path):
    header = json.dumps({"__metadata__": {"by": "ada@uni.ac.uk"}}).encode()
    content = struct.pack("<Q", len(header)) + header + SECRETS["Hub token"].encode()
    [finding] = found(tmp_path, "model.safetensors", content)
    assert str(finding) == "model.safetensors, header, line 1, column 26: e-mail ada@uni.ac.uk"


@pytest.mark.parametrize("what", [what for what in SECRETS if what not in ("password in an address", "key")])
def test_a_secret_between_bytes_above_127_is_found(tmp_path, what):
    [finding] = found(tmp_path, "state.dat", b"\x00\xff" + SECRETS[what].encode() + b"\xff\x00")
    assert (finding.place, finding.what) == ("byte 2", what)


def test_binary_files_are_searched_for_what_chance_does_not_write(tmp_path):
    content = b"\xff\x00ada@uni.ac.uk\x00" + SECRETS["Hub token"].encode() + b"\x00/home/ada/x\x00"
    assert [(finding.place, finding.what) for finding in found(tmp_path, "x.bin", content)] == [
        ("byte 16", "Hub token"), ("byte 54", "home directory")]


def test_the_position_of_a_picture_is_found_and_its_text_too(tmp_path):
    from PIL import Image, PngImagePlugin

    picture, place = Image.new("RGB", (8, 8)), Image.Exif()
    place.get_ifd(0x8825)[1] = "N"
    place.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    file = io.BytesIO()
    picture.save(file, "JPEG", exif=place)
    assert [str(finding) for finding in found(tmp_path, "a.jpg", file.getvalue())] == ["a.jpg, EXIF: position where the picture was taken"]
    told, file = PngImagePlugin.PngInfo(), io.BytesIO()
    told.add_text("Author", "ada@uni.ac.uk", zip=True)
    picture.save(file, "PNG", pnginfo=told)
    assert [finding.place for finding in found(tmp_path, "a.png", file.getvalue())] == ["text of the picture, line 1, column 1"]
    file = io.BytesIO()
    picture.save(file, "PNG")
    assert found(tmp_path, "b.png", file.getvalue()) == [] and found(tmp_path, "c.png", b"\xffno picture") == []


def test_the_token_in_use_is_found_whatever_its_form(tmp_path):
    [finding] = found(tmp_path, "x.txt", "a secret-without-form", secrets=["secret-without-form", ""])
    assert finding.what == "the token in use" and finding.seen == "secr…"


def test_a_finding_is_allowed_by_its_file_or_its_kind():
    finding = Finding("figures/a.png", "EXIF", "position", "")
    assert [finding.is_allowed([name]) for name in ("figures/a.png", "figures/*", "position", "a.png", "e-mail")] == [True, True, True, False, False]
