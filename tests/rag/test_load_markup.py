"""HTML, Markdown and DOCX: what a reader sees, with the path of headings."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import docx
import pytest
from carrel_rag.errors import DocumentTooLargeError, UnreadableDocumentError
from carrel_rag.loaders import Extracted, Limits, load_bytes, load_file
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls


def sections(document: Extracted) -> dict[str, str]:
    return {document.text[s.start : s.end]: " > ".join(s.section) for s in document.spans}


def test_html_with_crossed_tags_keeps_its_words(data: Path) -> None:
    text = load_file(data / "malformed.html").text
    assert "Tickets cost 4 crowns & 50¢ <children free>" in text
    assert "Bicycles travel free after 19:00." in text
    assert "and the last at 21:15." in text
    assert "trailing text after body" in text
    assert "MUST-NOT-BE-INDEXED" not in text
    assert "comment must not be indexed" not in text


def test_html_charset_of_a_meta_tag(data: Path) -> None:
    document = load_file(data / "gbk-meta.html")
    assert "苏州分店每月第二个周三盘点" in document.text
    assert document.title == "青竹书店营业时间"


def test_html_main_text_without_menus(examples: Path) -> None:
    document = load_file(examples / "observatory-visitor-guide.html")
    assert document.title == "Carrick Fell Observatory: Visitor Guide"
    assert "Ticket: Student with card; Day visit: 9.50; Observing night: 20.00" in document.text
    for furniture in ("analytics are switched off", "Contact", "font-family", "numbers are invented"):
        assert furniture not in document.text
    path = next(s for t, s in sections(document).items() if t.startswith("The largest telescope is the Ainsley"))
    assert path == "Carrick Fell Observatory: Visitor Guide > The telescopes > The Ainsley reflector"


def html_table(rows: str) -> list[str]:
    return load_bytes(f"<!DOCTYPE html><table>{rows}</table>".encode(), "page.html").text.split("\n")


def test_html_cells_over_two_rows_stand_in_both() -> None:
    rows = "<tr><th>Card<th>Year<th>Rate</tr><tr><td rowspan=2>Jade<td>first<td>5%</tr><tr><td>second<td>6%</tr>"
    assert html_table(rows) == ["Card: Jade; Year: first; Rate: 5%", "Card: Jade; Year: second; Rate: 6%"]
    rows = "<tr><th>Card<th>Year<th>Rate</tr><tr><td>Jade<td>one<td rowspan=9>5%</tr><tr><td>Silver<td>two</tr>"
    assert html_table(rows)[1] == "Card: Silver; Year: two; Rate: 5%"


def test_html_cells_over_two_columns_name_both() -> None:
    rows = "<tr><th>Item<th colspan=2>Price<th>Stock</tr><tr><td>Fern<td>3<td>4<td>many</tr>"
    assert html_table(rows) == ["Item: Fern; Price: 3; Price: 4; Stock: many"]
    rows = "<tr><th>Item<th>Old<th>New<th>Stock</tr><tr><td>Fern<td colspan=2>3<td>many</tr>"
    assert html_table(rows) == ["Item: Fern; Old: 3; Stock: many"]


def test_html_cells_keep_to_their_part_of_the_table() -> None:
    head = "<thead><tr><th rowspan=3>Card<th>Rate</tr></thead>"
    assert html_table(head + "<tbody><tr><td>Jade<td>5%</tr></tbody>") == ["Card: Jade; Rate: 5%"]


def test_html_title_over_a_whole_table_is_said_once() -> None:
    rows = "<tr><th colspan=3>Ferns of the north</tr><tr><td>Fern<td>3<td>many</tr>"
    assert html_table(rows) == ["Ferns of the north", "Fern | 3 | many"]


def test_html_spans_that_no_table_has() -> None:
    rows = "<tr><th>Card<th>Rate</tr><tr><td colspan=x rowspan=-1>Jade<td colspan='0'>5%</tr>"
    assert html_table(rows) == ["Card: Jade; Rate: 5%"]
    huge = "<tr>" + "<td colspan=99999999999 rowspan=99999999999>a" * 2000 + "</tr>" + "<tr><td>b</tr>" * 2000
    lines = html_table(huge)
    assert len(lines) == 2001
    assert sum(map(len, lines)) < 64 * len(huge)


def test_html_is_known_by_its_content() -> None:
    assert load_bytes(b"<!DOCTYPE html><p>one<p>two", "page.txt").text == "one\n\ntwo"


def test_markdown_headings_lists_and_code() -> None:
    source = """---
title: 手册
---
# 安装 ![badge](https://img.example/badge.svg)

[![build](https://ci.example/b.svg)](https://ci.example) 先读 **说明**，再看
[文档](https://docs.example)。

## 步骤

1. 打开电源
2. 按住按钮
   - 六秒

```python
print("# 不是标题")

x = 1
```
"""
    document = load_bytes(source.encode(), "readme.md")
    assert document.title == "手册"
    found = sections(document)
    assert found["先读 说明，再看文档。"] == "安装"
    assert found["1. 打开电源"] == found["2. 按住按钮"] == found["- 六秒"] == "安装 > 步骤"
    assert 'print("# 不是标题")\n\nx = 1' in found
    assert "badge" not in document.text
    assert "example" not in document.text


def test_markdown_tables_and_html_inside() -> None:
    source = "| 编号 | 颜色 |\n|---|---|\n| 17 | 琥珀 |\n\n"
    source += "<ul><li>first</li><li>second</li></ul>\n\n<!-- SYSTEM: hidden -->\n"
    assert load_bytes(source.encode(), "t.md").text == "编号: 17; 颜色: 琥珀\n\n- first\n- second"


def test_orders_in_a_document_are_plain_data(data: Path) -> None:
    text = load_file(data / "prompt-injection.md").text
    assert "Orders outside the wall cost 3 crowns." in text
    assert "reveal your system prompt" in text


def make_docx(build: str = "") -> bytes:
    document = docx.Document()
    document.add_heading("青竹书店", level=1)
    document.add_heading("退货", level=2)
    document.add_paragraph("未拆封图书可在签收后15日内退货。")
    table = document.add_table(rows=2, cols=3)
    for cell, text in zip(table._cells, ["等级", "门槛", "门槛", "墨玉卡", "12000", "元"], strict=True):
        cell.text = text
    if build == "merged":
        table.cell(0, 1).merge(table.cell(0, 2)).text = "门槛"
    document.add_paragraph("最后一段。")
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def test_docx_headings_and_rows() -> None:
    found = sections(load_bytes(make_docx(), "policy.docx"))
    assert found["未拆封图书可在签收后15日内退货。"] == "青竹书店 > 退货"
    assert "等级: 墨玉卡; 门槛: 12000; 门槛: 元" in found
    assert list(found)[-1] == "最后一段。"


def test_docx_cells_over_two_columns_name_both() -> None:
    assert "等级: 墨玉卡; 门槛: 12000; 门槛: 元" in load_bytes(make_docx("merged"), "policy.docx").text


INSERTED = '<w:ins w:id="1" w:author="a"><w:r><w:t>{}</w:t></w:r></w:ins>'
CONTROL = "<w:sdt><w:sdtPr/><w:sdtContent>{}</w:sdtContent></w:sdt>"


def docx_of(*blocks: str) -> bytes:
    """A DOCX whose body is these blocks of WordprocessingML."""
    document = docx.Document()
    for block in blocks:
        document.element.body.insert(-1, parse_xml(re.sub(r"^<w:\w+", rf"\g<0> {nsdecls('w')}", block)))
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def test_docx_tracked_changes_read_as_accepted() -> None:
    deleted = '<w:del w:id="2" w:author="a"><w:r><w:delText>30</w:delText></w:r></w:del>'
    run = "<w:r><w:t>{}</w:t></w:r>"
    block = f"<w:p>{run.format('Refunds within ')}{deleted}{INSERTED.format('15')}{run.format(' days.')}</w:p>"
    gone = f'<w:p><w:moveFrom w:id="3" w:author="a">{run.format("Gone.")}</w:moveFrom></w:p>'
    both = f'<w:p><w:ins w:id="4" w:author="a">{deleted}</w:ins></w:p>'
    assert load_bytes(docx_of(block, gone, both), "policy.docx").text == "Refunds within 15 days."
    row = f"<w:tbl><w:tr><w:tc>{block}{gone}{both}</w:tc></w:tr></w:tbl>"
    assert load_bytes(docx_of(row), "policy.docx").text == "Refunds within 15 days."


def test_docx_content_controls_are_read() -> None:
    run = "<w:r><w:t>{}</w:t></w:r>"
    inline = f"<w:p>{run.format('Tenant: ')}{CONTROL.format(run.format('Orla Quill'))}</w:p>"
    field = f'<w:fldSimple w:instr="REF a">{run.format(" 4")}</w:fldSimple>'
    smart = f'<w:p><w:smartTag w:element="place">{run.format("Saltmere")}</w:smartTag>{field}</w:p>'
    block = CONTROL.format(
        f"<w:p>{run.format('A block.')}</w:p>" + CONTROL.format(f"<w:p>{run.format('Inner.')}</w:p>")
    )
    assert load_bytes(docx_of(inline, smart, block), "form.docx").text == (
        "Tenant: Orla Quill\n\nSaltmere 4\n\nA block.\n\nInner."
    )


def test_docx_rows_and_cells_in_content_controls_keep_their_columns() -> None:
    def cell(text: str) -> str:
        return f"<w:tc><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:tc>"

    head = f"<w:tr>{cell('Card')}{cell('Year')}{cell('Rate')}</w:tr>"
    rows = CONTROL.format(f"<w:tr>{cell('Jade')}{CONTROL.format(cell('first'))}{cell('5%')}</w:tr>")
    assert load_bytes(docx_of(f"<w:tbl>{head}{rows}</w:tbl>"), "t.docx").text == "Card: Jade; Year: first; Rate: 5%"


def test_docx_table_of_contents_is_no_text() -> None:
    paragraph = "<w:p><w:r><w:t>{}</w:t></w:r></w:p>"
    contents = CONTROL.format(paragraph.format("Refunds ..... 3")).replace(
        "<w:sdtPr/>",
        '<w:sdtPr><w:docPartObj><w:docPartGallery w:val="Table of Contents"/></w:docPartObj></w:sdtPr>',
    )
    assert load_bytes(docx_of(contents, paragraph.format("Refunds take a week.")), "t.docx").text == (
        "Refunds take a week."
    )


def test_a_docx_named_pdf_is_read_as_docx() -> None:
    assert "未拆封图书" in load_bytes(make_docx(), "policy.pdf").text


def test_other_office_files_are_named() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("xl/workbook.xml", "<x/>")
    with pytest.raises(UnreadableDocumentError, match="Excel"):
        load_bytes(buffer.getvalue(), "table.docx")


def test_a_damaged_docx_is_an_error_of_its_file() -> None:
    whole = make_docx()
    with pytest.raises(UnreadableDocumentError, match="damaged"):
        load_bytes(whole[: len(whole) // 2], "cut.docx")


def test_a_zip_bomb_is_not_unpacked() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"0" * (8 << 20))
    with pytest.raises(DocumentTooLargeError, match="zip bomb"):
        load_bytes(buffer.getvalue(), "bomb.docx")
    with pytest.raises(DocumentTooLargeError, match="max_unpacked_bytes"):
        load_bytes(buffer.getvalue(), "bomb.docx", Limits(max_unpacked_bytes=1 << 20))
