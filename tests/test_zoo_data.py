"""The zoo's pictures: Unicode's list is read line by line, and a font of our own, drawn for the
test, comes out pixel by pixel."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from isdo.zoo import data

GRIN, HAND, DOG, APPLE, TONE, JOINER = 0x1F600, 0x1F44B, 0x1F415, 0x1F34E, 0x1F3FD, 0x200D
LIST = """\
# emoji-test.txt
# group: Smileys & Emotion
# subgroup: face-smiling
1F600                                      ; fully-qualified     # 😀 E1.0 grinning face
1F600                                      ; unqualified         # a form that is left out
# group: People & Body
1F44B                                      ; fully-qualified     # 👋 E0.6 waving hand
1F44B 1F3FD                                ; fully-qualified     # 👋🏽 E1.0 waving hand: medium
# group: Component
1F3FD                                      ; component           # 🏽 E1.0 medium skin tone
1F3FD                                      ; fully-qualified     # of no group that counts
# group: Animals & Nature
1F415                                      ; fully-qualified     # 🐕 E0.7 dog
1F415 200D 1F34E                           ; fully-qualified     # no glyph of its own
# group: Food & Drink
1F34E                                      ; minimally-qualified # 🍎
1F34E                                      ; fully-qualified     # 🍎 E0.6 red apple
"""
COLOURS = {
    "grin": (255, 210, 0, 255), "hand": (250, 180, 90, 255), "hand_tone": (160, 100, 60, 255),
    "dog": (120, 80, 40, 128), "apple": (200, 20, 30, 255),
}  # fmt: skip


def strike(name):
    """Return a picture of 136 x 128 pixels, as those of Noto: a square of one colour, see-through
    around, with a mark above left."""
    image = Image.new("RGBA", (136, 128), (0, 0, 0, 0))
    image.paste(COLOURS[name], (20, 16, 116, 112))
    image.paste((0, 0, 255, 255), (20, 16, 44, 40))
    return image


def png(image):
    with io.BytesIO() as file:
        image.save(file, "PNG")
        return file.getvalue()


@pytest.fixture(scope="module")
def font(tmp_path_factory):
    """A font with colour bitmaps (CBDT) and one ligature: a hand with a skin tone."""
    builder = pytest.importorskip("fontTools.fontBuilder")
    pytest.importorskip("uharfbuzz")
    from fontTools.pens.ttGlyphPen import TTGlyphPen
    from fontTools.ttLib import newTable
    from fontTools.ttLib.tables import E_B_L_C_
    from fontTools.ttLib.tables.BitmapGlyphMetrics import SmallGlyphMetrics
    from fontTools.ttLib.tables.C_B_D_T_ import cbdt_bitmap_format_17

    names = [".notdef", *COLOURS, "tone", "joiner"]
    made = builder.FontBuilder(1024)
    made.setupGlyphOrder(names)
    codes = dict(zip((GRIN, HAND, DOG, APPLE, TONE, JOINER),
                     ("grin", "hand", "dog", "apple", "tone", "joiner"), strict=True))  # fmt: skip
    made.setupCharacterMap(codes)
    made.setupGlyf({name: TTGlyphPen(None).glyph() for name in names})
    made.setupHorizontalMetrics({name: (1024, 0) for name in names})
    made.setupHorizontalHeader(ascent=800, descent=-200)
    made.setupNameTable({"familyName": "Test", "styleName": "Regular"})
    made.setupOS2()
    made.setupPost()
    made.addOpenTypeFeatures("feature ccmp { sub hand tone by hand_tone; } ccmp;")

    bitmaps = {}
    for name in COLOURS:
        glyph = cbdt_bitmap_format_17(b"", made.font)
        glyph.metrics = SmallGlyphMetrics()
        for key, value in dict(
            height=128, width=136, BearingX=0, BearingY=101, Advance=136
        ).items():
            setattr(glyph.metrics, key, value)
        glyph.imageData = png(strike(name))
        bitmaps[name] = glyph
    made.font["CBDT"] = colours = newTable("CBDT")
    colours.version, colours.strikeData = 3.0, [bitmaps]
    made.font["CBLC"] = places = newTable("CBLC")
    places.version = 3.0
    size = E_B_L_C_.Strike()
    table = size.bitmapSizeTable = E_B_L_C_.BitmapSizeTable()
    for key in ("colorRef", "flags", "startGlyphIndex", "endGlyphIndex"):
        setattr(table, key, 0)
    table.ppemX = table.ppemY = 109
    table.bitDepth, table.flags = 32, 1
    for way in ("hori", "vert"):
        metrics = E_B_L_C_.SbitLineMetrics()
        for key in ("ascender", "descender", "widthMax", "caretSlopeNumerator",
                    "caretSlopeDenominator", "caretOffset", "minOriginSB", "minAdvanceSB",
                    "maxBeforeBL", "minAfterBL", "pad1", "pad2"):  # fmt: skip
            setattr(metrics, key, 0)
        setattr(table, way, metrics)
    index = E_B_L_C_.eblc_index_sub_table_1(b"", made.font)
    index.indexFormat, index.imageFormat, index.names = 1, 17, list(bitmaps)
    size.indexSubTables = [index]
    places.strikes = [size]
    path = tmp_path_factory.mktemp("font") / "colours.ttf"
    made.save(path)
    return path


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    path = tmp_path_factory.mktemp("groups") / "emoji-test.txt"
    path.write_text(LIST, encoding="utf-8")
    return path


def test_the_list_gives_whole_emoji_their_group_and_a_skin_tone_no_concept_of_its_own(groups):
    assert list(data.sequences(groups)) == [
        ("\U0001f600", 0, (GRIN,)),
        ("\U0001f44b", 1, (HAND,)),
        ("\U0001f44b\U0001f3fd", 1, (HAND,)),
        ("\U0001f415", 2, (DOG,)),
        ("\U0001f415\u200d\U0001f34e", 2, (DOG, JOINER, APPLE)),
        ("\U0001f34e", 3, (APPLE,)),
    ]


def test_what_the_font_draws_as_one_glyph_is_its_bitmap_and_nothing_else_is(font):
    texts = ["\U0001f600", "\U0001f44b\U0001f3fd", "\U0001f415\u200d\U0001f34e", "\U0001f3fd", "a"]
    found = list(data.strikes(texts, font))
    assert found[2] is found[3] is found[4] is None  # two glyphs, one without a bitmap, and none
    for image, name in zip(found[:2], ("grin", "hand_tone"), strict=True):
        assert image.mode == "RGBA" and image.tobytes() == strike(name).tobytes()


def test_emoji_stand_in_the_middle_on_white_and_see_through_parts_let_it_show(font, groups):
    emoji = data.load_emoji(font=font, groups=groups)
    assert emoji.pictures.shape == (5, 1, 3, data.SIZE, data.SIZE)
    assert emoji.pictures.dtype == torch.uint8
    assert emoji.labels.tolist() == [0, 1, 1, 2, 3] and emoji.concepts.tolist() == [0, 1, 1, 2, 3]
    names = ("grin", "hand", "hand_tone", "dog", "apple")
    for picture, name in zip(emoji.pictures[:, 0], names, strict=True):
        *colour, alpha = COLOURS[name]
        seen = [round(255 + (c - 255) * alpha / 255) for c in colour]
        # 144 of the 192 pixels of the canvas are 32 of the picture; the square begins at 48 of them
        assert (picture[:, 16, 20].int() - torch.tensor(seen)).abs().max() <= 1
        assert picture[:, 0, 0].tolist() == picture[:, 31, 31].tolist() == [255, 255, 255]
        blue = (picture[2].int() - picture[0].int() > 100).nonzero()
        rows, columns = (blue[:, k].tolist() for k in (0, 1))
        # (48 - 24) / 4.5 = 5.3 and (72 - 24) / 4.5 = 10.7
        assert min(rows) in (5, 6) and max(rows) in (9, 10)
        assert min(columns) in (5, 6) and max(columns) in (9, 10)


def test_variants_move_by_a_pixel_at_most_and_are_the_same_again(font, groups):
    first, again, other = (data.load_emoji(6, seed, font, groups) for seed in (3, 3, 4))
    assert torch.equal(first.pictures, again.pictures)
    assert torch.equal(first.pictures[:, 0], other.pictures[:, 0])  # the first is never moved
    assert not torch.equal(first.pictures[:, 1:], other.pictures[:, 1:])
    assert torch.equal(first.pictures[:, :1], data.load_emoji(1, 9, font, groups).pictures)
    ink = 255.0 - first.pictures[4].float().mean(1)  # (variants, 32, 32) of the apple
    place = torch.arange(data.SIZE, dtype=torch.float32)
    centre = torch.stack([(ink.sum(axis) * place).sum(1) / ink.sum((1, 2)) for axis in (1, 2)], 1)
    moved = (centre[1:] - centre[0]).abs()
    assert 0.05 < moved.max() < 1.1  # 4.5 pixels of the canvas are one
    area = (ink > 60).float().sum((1, 2)).sqrt()
    assert ((area[1:] / area[0] - 1).abs() < 0.1).all()


def test_whole_concepts_are_held_out_and_every_one_counts_alike():
    concepts = torch.tensor([0, 1, 1, 1, 2, 3, 3, 4, 5, 6, 7])
    emoji = data.Emoji(torch.arange(11)[:, None], concepts % 3, concepts)
    train, held = emoji.split(0.25, seed=5)
    assert set(train.concepts.tolist()).isdisjoint(held.concepts.tolist())
    assert len(held.concepts.unique()) == 2 and len(train.concepts) + len(held.concepts) == 11
    assert sorted([*train.pictures.flatten().tolist(), *held.pictures.flatten().tolist()]) == list(
        range(11)
    )
    assert torch.equal(emoji.split(0.25, seed=5)[1].pictures, held.pictures)
    splits = [emoji.split(0.25, seed)[1].concepts.unique().tolist() for seed in range(8)]
    assert len({tuple(split) for split in splits}) > 1
    odds = emoji.odds()
    assert odds.sum() == pytest.approx(1)
    each = torch.zeros(8).index_add_(0, concepts, odds)
    torch.testing.assert_close(each, torch.full((8,), 1 / 8))


def test_bytes_are_minus_one_to_one():
    assert data.to_unit(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]
    middle = data.to_unit(torch.tensor([127, 128], dtype=torch.uint8))
    assert middle.tolist() == pytest.approx([-1 / 255, 1 / 255], abs=1e-6)


@pytest.mark.parametrize("missing", ["font", "groups"])
def test_a_missing_file_is_named_with_its_package(tmp_path, missing):
    there = tmp_path / "there"
    there.write_text("")
    given = {"font": there, "groups": there} | {missing: tmp_path / "nowhere"}
    with pytest.raises(FileNotFoundError, match=r"nowhere is missing; .*fonts-noto-color-emoji"):
        data.load_emoji(**given)


def test_the_machine_s_own_emoji_are_read():
    if not (data.FONT.exists() and data.GROUPS.exists()):
        pytest.skip("the packages fonts-noto-color-emoji and unicode-data are not installed")
    emoji = data.load_emoji()
    assert 2_000 < len(emoji.pictures) < 5_000 and set(emoji.labels.tolist()) == set(range(9))
    assert emoji.pictures.float().std() > 20 and np.isfinite(emoji.odds().numpy()).all()
