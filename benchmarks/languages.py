"""Recall of BM25 in Chinese, Japanese and Korean beside English, and beside Lucene's CJK analyzer.

    python benchmarks/languages.py

Parallel texts are made: every passage describes an institution of a city in the same few sentences of each language,
and every question asks for one of them (a known item); a fourth of the questions fit several passages.
``recall_at_3`` is the share of questions whose passage is among the first three. Each language is a corpus of its own;
``lucene`` has the analyzer of English for English and the CJK analyzer for the others.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from dataclasses import dataclass

from rich.table import Table

from opid_gym.console import out
from opid_gym_envs.searchqa.corpus import Passage
from opid_gym_envs.searchqa.retrievers import make_retriever

LANGUAGES = ("english", "chinese", "japanese", "korean")

CITIES = """
Paris 巴黎 パリ 파리|London 伦敦 ロンドン 런던|Berlin 柏林 ベルリン 베를린
Madrid 马德里 マドリード 마드리드|Rome 罗马 ローマ 로마|Vienna 维也纳 ウィーン 빈
Prague 布拉格 プラハ 프라하|Lisbon 里斯本 リスボン 리스본|Moscow 莫斯科 モスクワ 모스크바
Cairo 开罗 カイロ 카이로|Nairobi 内罗毕 ナイロビ 나이로비|Tokyo 东京 東京 도쿄
Kyoto 京都 京都 교토|Seoul 首尔 ソウル 서울|Busan 釜山 釜山 부산
Beijing 北京 北京 베이징|Shanghai 上海 上海 상하이|Nanjing 南京 南京 난징
Hanoi 河内 ハノイ 하노이|Bangkok 曼谷 バンコク 방콕|Delhi 德里 デリー 델리
Lima 利马 リマ 리마|Bogota 波哥大 ボゴタ 보고타|Sydney 悉尼 シドニー 시드니
Oslo 奥斯陆 オスロ 오슬로|Toronto 多伦多 トロント 토론토|Chicago 芝加哥 シカゴ 시카고
Boston 波士顿 ボストン 보스턴
"""
INSTITUTIONS = """
museum 博物馆 博物館 박물관|library 图书馆 図書館 도서관|university 大学 大学 대학교
hospital 医院 病院 병원|theatre 剧院 劇場 극장|observatory 天文台 天文台 천문대
market 市场 市場 시장|station 车站 駅 역|aquarium 水族馆 水族館 수족관
zoo 动物园 動物園 동물원|garden 植物园 植物園 식물원|stadium 体育场 競技場 경기장
bank 银行 銀行 은행|archive 档案馆 公文書館 기록보관소
"""
PEOPLE = """
Anna 安娜 アンナ 안나|Peter 彼得 ピーター 피터|Maria 玛丽亚 マリア 마리아
David 大卫 デイビッド 데이비드|Laura 劳拉 ローラ 로라|Martin 马丁 マーティン 마틴
Helena 海伦娜 ヘレナ 헬레나|Robert 罗伯特 ロバート 로버트|Sofia 索菲亚 ソフィア 소피아
Victor 维克多 ビクター 빅터|Emma 艾玛 エマ 에마|Oscar 奥斯卡 オスカー 오스카
Clara 克拉拉 クララ 클라라|Felix 菲利克斯 フェリックス 펠릭스|Nina 妮娜 ニーナ 니나
"""
THINGS = """
dinosaurs 恐龙 恐竜 공룡|telescopes 望远镜 望遠鏡 망원경|maps 地图 地図 지도
coins 硬币 硬貨 동전|violins 小提琴 バイオリン 바이올린|locomotives 火车头 機関車 기관차
butterflies 蝴蝶 蝶々 나비|paintings 油画 油絵 유화|clocks 钟表 時計 시계
shells 贝壳 貝殻 조개껍데기|carpets 地毯 絨毯 양탄자|swords 宝剑 刀剣 검
orchids 兰花 蘭の花 난초|letters 书信 手紙 편지|penguins 企鹅 ペンギン 펭귄
lamps 灯具 ランプ 램프
"""
STYLES = """
brick 砖 煉瓦 벽돌|marble 大理石 大理石 대리석|wood 木材 木材 목재
glass 玻璃 ガラス 유리|concrete 混凝土 コンクリート 콘크리트
"""

PASSAGE = {
    "english": "The {institution} of {city} was founded in {year} by {person}. Its building is made of {style}. "
    "Visitors come for a collection of {thing}. It stands in the middle of the town and is open every day.",
    "chinese": "{city}的{institution}由{person}于{year}年创立。它的建筑用{style}建成。"
    "游客们为了{thing}的收藏而来。它位于市中心，每天开放。",
    "japanese": "{city}の{institution}は{year}年に{person}によって設立された。建物は{style}でできている。"
    "来訪者は{thing}のコレクションを見に来る。町の中心にあり、毎日開いている。",
    "korean": "{city}의 {institution}은 {year}년에 {person}이 설립하였다. 건물은 {style}로 지어졌다. "
    "방문객들은 {thing} 수집품을 보러 온다. 시내 중심에 있으며 매일 문을 연다.",
}
QUESTIONS = {
    "english": (
        "Who founded the {institution} in {city}?",
        "In which year did {person} found the {institution} that has {thing}?",
        "Which {institution} made of {style} can one visit in {city} to see {thing}?",
        "Where can one see the {thing} that {person} left to the public?",
    ),
    "chinese": (
        "谁创立了{city}的{institution}？",
        "{person}在哪一年创立了收藏{thing}的{institution}？",
        "在{city}可以去哪座用{style}建成的{institution}看{thing}？",
        "{person}留给公众的{thing}可以在哪里看到？",
    ),
    "japanese": (
        "{city}の{institution}を設立したのは誰ですか？",
        "{person}が{thing}のある{institution}を設立したのは何年ですか？",
        "{city}で{thing}を見られる{style}の{institution}はどれですか？",
        "{person}が残した{thing}はどこで見られますか？",
    ),
    "korean": (
        "{city}에 있는 {institution}을 설립한 사람은 누구인가?",
        "{person}이 {thing}이 있는 {institution}을 설립한 해는 언제인가?",
        "{city}에서 {thing}을 볼 수 있는 {style} {institution}은 어디인가?",
        "{person}이 남긴 {thing}은 어디에서 볼 수 있는가?",
    ),
}


@dataclass(frozen=True)
class Place:
    """What a passage is about: for each field, its place in the lists above."""

    words: dict[str, tuple[str, ...]]
    year: int

    def say(self, form: str, language: str) -> str:
        """A sentence about it."""
        place = LANGUAGES.index(language)
        return form.format(year=self.year, **{name: words[place] for name, words in self.words.items()})


def read(table: str) -> list[tuple[str, ...]]:
    """Words of a table: a tuple of one in each language."""
    return [tuple(entry.split()) for entry in table.strip().replace("\n", "|").split("|")]


def places(seed: int) -> list[Place]:
    """One for each institution of each city."""
    draw = random.Random(seed)
    lists = {"person": read(PEOPLE), "thing": read(THINGS), "style": read(STYLES)}
    return [
        Place(
            {"city": city, "institution": institution, **{name: draw.choice(words) for name, words in lists.items()}},
            draw.randint(1700, 1999),
        )
        for city in read(CITIES)
        for institution in read(INSTITUTIONS)
    ]


def recall(engine: str, language: str, described: list[Place], folder: str) -> float:
    """The share of questions whose passage is among the first three."""
    passages = [Passage(str(n), "", place.say(PASSAGE[language], language)) for n, place in enumerate(described)]
    settings = {"language": "en" if language == "english" else "zh"} if engine == "lucene" else {}
    retriever = make_retriever(engine, corpus=passages, cache_dir=f"{folder}/{language}", **settings)
    asked = [(str(n), form) for n in range(len(described)) for form in QUESTIONS[language]]
    results = retriever.search([described[int(n)].say(form, language) for n, form in asked], 3)
    retriever.close()
    return sum(name in [hit.id for hit in hits] for (name, _), hits in zip(asked, results, strict=True)) / len(asked)


def main() -> None:
    """Measure the recall of each engine in each language and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", default=["bm25", "bm25s", "lucene"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    described = places(arguments.seed)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for engine in arguments.engines:
            results[engine] = {name: round(recall(engine, name, described, folder), 4) for name in LANGUAGES}
    settings = {
        "passages": len(described),
        "questions": sum(map(len, QUESTIONS.values())) // 4 * len(described),
        "seed": arguments.seed,
    }
    if arguments.json:
        print(json.dumps({"settings": settings, "recall_at_3": results}))
        return
    table = Table("recall@3", *LANGUAGES)
    for engine, row in results.items():
        table.add_row(engine, *(f"{value:.3f}" for value in row.values()))
    out.print(table)


if __name__ == "__main__":
    main()
