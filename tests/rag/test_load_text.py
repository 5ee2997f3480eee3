"""Text in any encoding, CSV, and what is no text at all."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from carrel_rag.errors import DocumentTooLargeError, EmptyDocumentError, UnreadableDocumentError
from carrel_rag.loaders import Limits, load_bytes, load_file
from carrel_rag.loaders.csv_table import find_delimiter
from carrel_rag.loaders.detect import detect_format
from carrel_rag.loaders.encoding import decode_text

CHINESE = "青竹书店会员分为银卡、金卡和墨玉卡三级。积分自获得之日起24个月内有效，每100分可抵扣1元。"


def test_gbk_gives_the_same_text_as_utf8(data: Path) -> None:
    assert load_file(data / "zh-policy-gbk.txt").text == load_file(data / "zh-policy-utf8-bom.txt").text


def test_the_byte_order_mark_goes_and_nothing_else(data: Path) -> None:
    raw = (data / "zh-policy-utf8-bom.txt").read_bytes()
    assert load_file(data / "zh-policy-utf8-bom.txt").text == raw[3:].decode("utf-8")


def test_big5_is_not_taken_for_gbk(data: Path) -> None:
    assert "青竹書店" in load_file(data / "zh-policy-big5.txt").text


@pytest.mark.parametrize("codec", ["gbk", "gb18030", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_chinese_in_the_encodings_of_daily_life(codec: str) -> None:
    if codec == "utf-16-le":
        text = "Plain words, then 书店, in the order of Windows. " * 4
        assert decode_text(text.encode(codec)) == text
    else:
        assert decode_text(CHINESE.encode(codec)) == CHINESE


def test_japanese_and_western_bytes() -> None:
    japanese = "港の北側には四千八百十二個の灯籠があり、そのうち千二百七個は菜種油を燃やしている。"
    assert decode_text(japanese.encode("cp932")) == japanese
    assert decode_text("Straße, Gänsemarkt 17, 1.250,00 €".encode("cp1252")) == "Straße, Gänsemarkt 17, 1.250,00 €"
    russian = "На северной пристани насчитали четыре тысячи восемьсот двенадцать фонарей. " * 3
    assert decode_text(russian.encode("cp1251")) == russian


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: raw[:30] + b"\xff" + raw[30:]])
def test_one_bad_byte_costs_one_character_of_utf8(damage: Callable[[bytes], bytes]) -> None:
    for text in (CHINESE, "The harbour’s 4,812 lanterns burn “colza” oil – 13 £…"):
        decoded = decode_text(damage(text.encode()))
        assert decoded.count("\ufffd") in (1, 2)  # the byte alone, or a character that it parts
        assert len(set(text) - set(decoded)) <= 1
    assert decode_text("“Colza” oil’s".encode() + b"\xe2\x80") == "“Colza” oil’s\ufffd"


def test_bad_bytes_of_a_page_that_declares_utf8() -> None:
    page = f"<meta charset=utf-8><p>{CHINESE}".encode().replace("墨".encode(), b"\xe5\xa2")
    assert "银卡、金卡和\ufffd玉卡" in load_bytes(page, "page.html").text


def test_offsets_of_plain_text_point_into_the_file() -> None:
    text = "  First paragraph,\r\nstill the first.\r\n\r\n第二段。\n\n\n"
    document = load_bytes(text.encode(), "note.txt")
    assert document.text == text
    assert [text[s.start : s.end] for s in document.spans] == ["First paragraph,\r\nstill the first.", "第二段。"]


@pytest.mark.parametrize("blank", [b"", b"\n\n \t", "\u3000\u3000\n".encode(), b"\x00\x00"])
def test_a_file_of_blanks_is_empty(blank: bytes) -> None:
    with pytest.raises(EmptyDocumentError, match="empty"):
        load_bytes(blank, "blank.md")


@pytest.mark.parametrize(
    ("head", "name"),
    [(b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff\xe0", "JPEG"), (b"\x1f\x8b\x08", "gzip"), (b"PAR1", "Parquet")],
)
def test_other_types_are_refused_by_name(head: bytes, name: str) -> None:
    with pytest.raises(UnreadableDocumentError, match=name):
        load_bytes(head + bytes(range(256)) * 4, "file.txt")


def test_a_note_that_speaks_of_pdf_is_a_note() -> None:
    for codec in ("utf-8", "gbk"):
        note = f"# 文件头\n\n{CHINESE}前几个字节是 `%PDF-1.7`。".encode(codec)
        assert "%PDF-1.7" in load_bytes(note, "note.md").text
    sample = "# 解剖\n\n```\n%PDF-1.7\n1 0 obj\n<<>>\nendobj\n```\n"
    assert "endobj" in load_bytes(sample.encode(), "note.md").text


def test_many_comments_are_soon_looked_through() -> None:
    for end in ("# Heading", "<p>Heading"):
        text = "<!-- a -->\n" * 370 + end
        begun = time.perf_counter()
        assert detect_format(text.encode(), ".md") == "markdown"
        assert time.perf_counter() - begun < 1
    assert detect_format(b"<!-- a -->\n" * 30 + b"<html>", ".md") == "html"


def test_random_bytes_are_not_text() -> None:
    noise = bytes((i * 197 + 89) % 256 for i in range(4096))
    with pytest.raises(UnreadableDocumentError, match="not text"):
        load_bytes(noise, "garbage.md")
    with pytest.raises(UnreadableDocumentError, match="not text"):
        load_bytes(noise.replace(b"\x00", b"\x01"), "garbage.md")


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "big.txt"
    path.write_text("字" * 1000, encoding="utf-8")
    with pytest.raises(DocumentTooLargeError, match="max_file_bytes=100"):
        load_file(path, Limits(max_file_bytes=100))


def test_what_no_database_can_keep_is_replaced() -> None:
    assert load_bytes(b"before \xed\xa0\x80 after", "x.txt").text.startswith("before")
    assert "\x00" not in load_bytes("a\x00b".encode("utf-16"), "x.txt").text


def test_csv_rows_carry_the_header_and_stay_apart() -> None:
    document = load_bytes('名称,价格\n茶,"12,5"\n"龙井\n特级",88\n'.encode(), "t.csv")
    assert document.text == "名称: 茶; 价格: 12,5\n名称: 龙井 特级; 价格: 88"
    assert [span.kind for span in document.spans] == ["row", "row"]


def test_csv_with_semicolons_and_decimal_commas(data: Path) -> None:
    document = load_file(data / "semicolon-cp1252.csv")
    assert "Straße: Gänsemarkt 17; Größe: 40 m²; Preis: 3.980,50 €" in document.text


def test_a_first_column_without_a_name_names_its_rows() -> None:
    assert load_bytes(b",spring,autumn\nferns,12,7\n", "t.csv").text == "ferns; spring: 12; autumn: 7"


def test_years_name_columns() -> None:
    text = load_bytes(b"Country,2019,2020\nFrance,5,6\n", "t.csv").text
    assert text == "Country: France; 2019: 5; 2020: 6"
    born = b"Ada,1815,1852\nMary,1780,1872\n"
    assert load_bytes(born, "t.csv").text == "Ada | 1815 | 1852\nMary | 1780 | 1872"
    born = b"Edith,1923,2003\nFrances,1932,2020\n"
    assert load_bytes(born, "t.csv").text == "Edith | 1923 | 2003\nFrances | 1932 | 2020"
    assert load_bytes(b"Fern,2000\nMoss,500\n", "t.csv").text == "Fern | 2000\nMoss | 500"


def test_csv_values_beyond_the_header_are_kept() -> None:
    assert load_bytes(b"a,b\n1,2,3\n", "t.csv").text == "a: 1; b: 2; column 3: 3"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(delimiter: str) -> None:
    rows = [["name", "note", "count"], ["quay, north", "4; 5", "12"], ["码头", "x|y", "7"]]
    text = "\n".join(delimiter.join(f'"{cell}"' for cell in row) for row in rows)
    assert find_delimiter(text) == delimiter


def test_a_very_long_cell_is_an_error_of_its_file() -> None:
    with pytest.raises(UnreadableDocumentError, match="CSV"):
        load_bytes(b'a,b\n"' + b"x" * 200_000 + b'",2\n', "t.csv")
