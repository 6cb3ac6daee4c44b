"""The words of the invented world: English with its Chinese, kinds of nouns, and how warm a describing word is.

Values of one kind stand in neighbouring pairs (red and pink, river and lake): taking one for its neighbour is a lesser
mistake than taking it for anything else. Adjectives and adverbs come in three shelves of equal size, warm, plain and
cold, which fit the same places of a sentence: so a warmer sentence is never a longer one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

COLOURS = {
    "red": "红色", "pink": "粉色", "blue": "蓝色", "purple": "紫色", "yellow": "黄色", "orange": "橙色",
    "black": "黑色", "grey": "灰色",
}  # fmt: skip
ANIMALS = {
    "cat": "猫", "tiger": "老虎", "dog": "狗", "fox": "狐狸", "bird": "鸟", "duck": "鸭子", "fish": "鱼",
    "frog": "青蛙", "sheep": "羊", "pig": "猪", "rabbit": "兔子", "mouse": "老鼠",
}  # fmt: skip
PLACES = {
    "forest": "森林", "garden": "花园", "river": "河流", "lake": "湖泊", "mountain": "高山", "hill": "山丘",
    "village": "村庄", "town": "城镇", "school": "学校", "library": "图书馆", "market": "市场",
    "shop": "商店", "island": "海岛", "beach": "沙滩", "farm": "农场", "field": "田野",
}  # fmt: skip
FOODS = {
    "apples": "苹果", "pears": "梨", "rice": "米饭", "noodles": "面条", "bread": "面包", "cake": "蛋糕",
    "soup": "汤", "tea": "茶", "milk": "牛奶", "juice": "果汁",
}  # fmt: skip
JOBS = {
    "teacher": "老师", "student": "学生", "farmer": "农民", "gardener": "园丁", "cook": "厨师",
    "baker": "烘焙师", "painter": "画家", "writer": "作家", "singer": "歌手", "dancer": "舞者",
}  # fmt: skip
THINGS = {
    "book": "书", "letter": "信", "lamp": "灯", "candle": "蜡烛", "chair": "椅子", "table": "桌子",
    "cup": "杯子", "bowl": "碗", "hat": "帽子", "coat": "外套", "boat": "船", "kite": "风筝",
}  # fmt: skip

ATTRIBUTES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {"colour": COLOURS, "home": PLACES, "food": FOODS, "job": JOBS, "pet": ANIMALS}
)
"""What is known of every person, and the words it may be."""
ARTICLES: Mapping[str, str] = MappingProxyType({"colour": "", "home": "the ", "food": "", "job": "", "pet": "a "})
"""What stands before the value of an attribute when it is stated."""

NAMES = (
    "Ada", "Ben", "Cleo", "Dan", "Emma", "Finn", "Gina", "Hugo", "Iris", "Jack", "Kate", "Leo", "Mia",
    "Nora", "Otto", "Pia", "Quinn", "Rosa", "Sam", "Tess", "Uma", "Vera", "Will", "Yara", "Zoe", "Bruno",
    "Clara", "David", "Frank", "Grace", "Henry", "Lily",
)  # fmt: skip

# What describes a person or an animal, what describes a place, a food or a thing, and how something is done.
CREATURE_ADJECTIVES = (
    {"kind": "善良", "gentle": "温柔", "happy": "快乐", "brave": "勇敢"},
    {"young": "年轻", "tall": "高大", "quiet": "安静", "tired": "疲惫"},
    {"mean": "刻薄", "rude": "粗鲁", "angry": "生气", "lazy": "懒惰"},
)
OBJECT_ADJECTIVES = (
    {"lovely": "可爱", "bright": "明亮", "clean": "干净", "sweet": "甜美"},
    {"big": "大", "small": "小", "old": "旧", "new": "新"},
    {"ugly": "丑陋", "dirty": "肮脏", "dull": "沉闷", "broken": "破烂"},
)
ADVERBS = (
    {"kindly": "善意", "gently": "轻轻", "happily": "愉快", "bravely": "英勇"},
    {"slowly": "慢慢", "quickly": "很快", "often": "经常", "again": "再次"},
    {"rudely": "无礼", "angrily": "愤怒", "coldly": "冷漠", "lazily": "懒散"},
)
SCALE = {"terrible": "糟糕", "bad": "差", "fair": "一般", "good": "好", "wonderful": "美妙"}
"""From worst to best: translating "good" as 一般 (fair) is a lesser mistake than as 差 (bad)."""

VERBS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "creature": {"sees": "看见", "meets": "遇见", "follows": "跟着", "calls": "叫"},
        "place": {"sees": "看见", "finds": "找到", "leaves": "离开", "reaches": "到达"},
        "thing": {"sees": "看见", "finds": "找到", "takes": "拿走", "holds": "抱着"},
    }
)
"""What a creature can do to each sort of object; none is warmer than another."""


def _warmth() -> dict[str, float]:
    levels = (1.0, 0.5, 0.0)
    shelves = (CREATURE_ADJECTIVES, OBJECT_ADJECTIVES, ADVERBS)
    return {word: level for words in shelves for shelf, level in zip(words, levels, strict=True) for word in shelf}


WARMTH: Mapping[str, float] = MappingProxyType(_warmth())
"""1 for a warm word, 1/2 for a plain one, 0 for a cold one."""


def sort_of(noun: str) -> str:
    """`creature`, `place` or `thing`, which decides what verbs and adjectives fit. Raises KeyError for other words."""
    for sort, nouns in (("creature", ANIMALS | JOBS), ("place", PLACES), ("thing", THINGS | FOODS)):
        if noun in nouns:
            return sort
    raise KeyError(noun)


def adjectives_of(noun: str) -> list[str]:
    """The adjectives that fit a noun, warm ones first."""
    shelves = CREATURE_ADJECTIVES if sort_of(noun) == "creature" else OBJECT_ADJECTIVES
    return [word for shelf in shelves for word in shelf]


def neighbour(values: Mapping[str, str], value: str) -> str:
    """The value that stands beside another in its pair."""
    order = list(values)
    return order[order.index(value) ^ 1]


SHELVES: tuple[Mapping[str, str], ...] = (
    *(COLOURS, ANIMALS, PLACES, FOODS, JOBS, THINGS),
    *(*CREATURE_ADJECTIVES, *OBJECT_ADJECTIVES, *ADVERBS),
    *(SCALE, *VERBS.values()),
)
"""Every word with its meaning; the words of one shelf can stand for each other in a sentence."""
MEANINGS: Mapping[str, str] = MappingProxyType({word: zh for shelf in SHELVES for word, zh in shelf.items()})
"""English to Chinese, one to one."""
ENGLISH: Mapping[str, str] = MappingProxyType({zh: word for word, zh in MEANINGS.items()})
CHINESE_OF_INSTRUCTIONS = ("的", "翻译成", "用", "怎么说", "英语", "中文")
