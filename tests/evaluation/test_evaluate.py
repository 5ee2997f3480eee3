"""The whole command over a dozen questions, with the starters; what it measures, and what it draws."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from training.evaluate import main
from training.evaluation.questions import HELD_OUT, is_held_out, read_sample

ENGLISH = {
    "Lanterns": (
        "The harbour of Vell has 4,812 lanterns. They were lit with colza oil until 1871, when gas came.",
        [("How many lanterns has the harbour of Vell?", ["4,812"]), ("When did gas come to the harbour?", ["1871"])],
    ),
    "Telescope": (
        "The Ainsley reflector has a mirror of 1.52 metres. It was built by Ruth Ainsley in Leeds.",
        [
            ("Who built the Ainsley reflector?", ["Ruth Ainsley", "Ainsley"]),
            ("What did the Ainsley reflector cost?", []),
        ],
    ),
    "Typewriter": (
        "Christopher Sholes patented a typewriter in 1868. Remington sold it five years later.",
        [("Who patented a typewriter in 1868?", ["Christopher Sholes"]), ("Who repaired typewriters in 1868?", [])],
    ),
    "Battery": ("Without sun the battery of the station lasts 21 days. Charging takes nine hours.", []),
    "Nuts": ("Self-locking nuts come in two types: the all-metal type and the fibre lock type.", []),
    "Tea": ("Tea from the upper valley is picked in April by about ninety families.", []),
}
CHINESE = {
    "云栖植物园": (
        "云栖植物园由沈若兰于1934年创建，占地约四百亩。园内有植物三千余种。",
        [("云栖植物园是谁创建的？", ["沈若兰"]), ("云栖植物园占地多少？", ["约四百亩", "四百亩"])],
    ),
    "青竹书店": (
        "青竹书店的墨玉卡会员购书积分按1.5倍累积。退货须在七日内办理。",
        [("墨玉卡会员的积分按几倍累积？", ["1.5倍", "1.5"]), ("青竹书店退货须在几日内办理？", ["七日"])],
    ),
    "红楼梦": (
        "《红楼梦》的作者是曹雪芹，书中写了贾、史、王、薛四大家族的兴衰。",
        [("《红楼梦》的作者是谁？", ["曹雪芹"]), ("《红楼梦》写了几大家族？", ["四大家族", "四"])],
    ),
    "长江": ("长江全长约6300公里，是亚洲最长的河流。", []),
    "茶": ("龙井茶产于杭州西湖一带，清明前采摘的最好。", []),
    "气象站": ("气象站的电池在没有阳光时可用二十一天。", []),
}


def write(folder: Path, part: str) -> None:
    """A passage without questions gets one without answers, so that it is indexed."""
    for lang, articles in (("en", ENGLISH), ("zh", CHINESE)):
        rows = [
            {
                "id": f"{title}/{i}",
                "lang": lang,
                "question": question,
                "answers": answers,
                "context": text,
                "title": title,
            }
            for title, (text, asked) in articles.items()
            for i, (question, answers) in enumerate(asked or [(text, ["7"] if lang == "zh" else [])])
        ]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{part}.{lang}.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "dev")
    out, details = tmp_path / "out.jsonl", tmp_path / "details.jsonl"
    main([
        "--qa", str(tmp_path), "--questions", "3", "--work", str(tmp_path / "work"), "--thresholds", "0.9",
        "--out", str(out), "--details", str(details),
    ])  # fmt: skip
    answered, ranked = capsys.readouterr().out.strip().split("\n\n")
    for table, head in ((answered, "| language | answer |"), (ranked, "| language | ranking |")):
        assert table.startswith(head)
        assert len({line.count("|") for line in table.splitlines()}) == 1
    rows = {(row["lang"], row.get("answer") or row["ranking"]): row for row in read(out)}
    for lang in ("en", "zh"):
        assert rows[lang, "BM25"]["mrr"]["mean"] > 0.8  # six passages
        free, held = rows[lang, "reader, free"], rows[lang, "reader, constrained"]
        assert free["f1"]["count"] == held["f1"]["count"] == 3
        assert free["abstains_unanswerable"]["count"] == 2
        strict = rows[lang, "extractive, sentences from 0.9"]
        assert (
            strict["abstains_answerable"]["mean"] >= rows[lang, "extractive, sentences"]["abstains_answerable"]["mean"]
        )
    facts = rows["zh", "BM25"]
    assert facts["split"] == "dev" and facts["seed"] == 0 and re.fullmatch(r"\S+ [0-9a-f]{12}", facts["chat"])
    assert {"commit", "cpu", "torch", "carrel", "command", "date"} <= set(facts)
    for row in read(details):
        assert (row["gold"] is None) or 1 <= row["gold"] <= 5
        if row["answer"] == "reader, constrained" and not row["abstained"]:
            assert row["text"] and len(row["cited"]) <= 1


def test_only_a_part_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "dev")
    main(["--qa", str(tmp_path), "--questions", "1", "--only", "reranker"])
    assert "MRR@10" in (text := capsys.readouterr().out) and "F1" not in text
    with pytest.raises(SystemExit):
        main(["--qa", str(tmp_path), "--only", "readers"])
    assert "reader,reranker,baselines" in capsys.readouterr().err


def test_a_sample(tmp_path: Path) -> None:
    write(tmp_path, "dev")
    english, chinese = (read_sample(tmp_path, lang, 2, seed=3) for lang in ("en", "zh"))
    assert len(english.passages) == len(chinese.passages) == 6
    assert all(question.answers for question in (*english.answerable, *chinese.answerable, *chinese.unanswerable))
    assert not any(question.answers for question in english.unanswerable)
    assert not set(chinese.answerable) & set(chinese.unanswerable)
    assert english == read_sample(tmp_path, "en", 2, seed=3)
    assert english != read_sample(tmp_path, "en", 2, seed=4)


def test_held_out_titles_are_those_that_training_leaves_out(tmp_path: Path) -> None:
    write(tmp_path, "train")
    source = (Path(__file__).parents[2] / "training" / "reranker" / "data.py").read_text(encoding="utf-8")
    assert f"HELD_OUT = {HELD_OUT} " in source and 'sum(row["title"].encode()) % HELD_OUT == 0' in source
    kept = {title for title in (*ENGLISH, *CHINESE) if is_held_out(title)}
    found = [read_sample(tmp_path, lang, 9, seed=0, held_out=True) for lang in ("en", "zh")]
    assert {passage.title for sample in found for passage in sample.passages} == kept
