"""A simulated news catalogue in English and Chinese, with the truth about its readers."""

import numpy as np
from msgspec import Struct

from models.base import Floats
from models.events import Item

START = 1_735_689_600_000  # 2025-01-01
MINUTE = 60_000

# Five lines a topic: names, then subjects and predicates in English, then in Chinese.
_WORDS = """
politics, 政治
Parliament, The minister, Voters, The opposition
debated the new budget, called for early elections, rejected the reform, backed a treaty
议会, 部长, 选民, 反对党
讨论新预算, 提前举行选举, 否决改革方案, 签署条约
sport, 体育
The home team, A young striker, The marathon champion, The coach
won in extra time, broke a record, returned after injury, lost the final
主队, 年轻前锋, 马拉松冠军, 主教练
加时赛获胜, 打破纪录, 伤愈复出, 决赛失利
technology, 科技
A chip maker, The open source project, A robot, A start-up
unveiled a faster processor, shipped a major release, learned to fold laundry, raised new funding
芯片厂商, 开源项目, 机器人, 初创公司
发布更快的处理器, 推出重大版本, 学会叠衣服, 获得新融资
science, 科学
Astronomers, Biologists, A space probe, Physicists
found water on a distant moon, mapped an unknown genome, sent first images, measured a rare particle
天文学家, 生物学家, 太空探测器, 物理学家
在遥远卫星上发现水, 绘制未知基因组, 传回首批图像, 测量罕见粒子
health, 健康
Doctors, A new vaccine, Hospitals, Nutritionists
warned of a flu wave, passed the last trial, shortened waiting times, praised walking
医生, 新疫苗, 医院, 营养师
警告流感高峰, 通过最后试验, 缩短候诊时间, 推荐散步
culture, 文化
The museum, A debut novel, The orchestra, A film director
opened a night exhibition, won the book prize, played a forgotten symphony, celebrated silent film
博物馆, 处女作小说, 交响乐团, 电影导演
举办夜间展览, 获得图书奖, 演奏被遗忘的交响曲, 首映无声电影
economy, 经济
The central bank, Exporters, House prices, Small firms
held interest rates, reported strong orders, fell for a third month, hired again
央行, 出口企业, 房价, 小企业
维持利率不变, 订单强劲, 连续第三个月下跌, 重新招聘
travel, 旅行
A night train, Island hotels, Hikers, The old harbour
connected two capitals, filled up early, discovered a forest trail, welcomed sailing ships
夜班列车, 海岛酒店, 徒步者, 老港口
连接两座首都, 提前客满, 发现森林小径, 迎来帆船
"""
_PLACES = """
Lisbon, Oslo, Nairobi, Kyoto, Lima, Chengdu, Tunis, Toronto, Riga, Perth
里斯本, 奥斯陆, 内罗毕, 京都, 利马, 成都, 突尼斯, 多伦多, 里加, 珀斯
"""


def _table(text: str) -> list[list[str]]:
    return [line.split(", ") for line in text.strip().splitlines()]


_LINES, _WHERE = _table(_WORDS), _table(_PLACES)
_NAMES = _LINES[::5]
TOPICS = tuple(english for english, _ in _NAMES)


class News(Struct, frozen=True):
    """Articles, and what readers truly like, as `agents.click_models.TasteVisitor` takes it.

    Dimensions are topics in English, then topics in Chinese. An article's vector sums to 1, a
    reader's holds weights in [0, 1]: their product is how much the reader likes the article.
    """

    items: tuple[Item, ...]
    topics: dict[str, Floats]
    tastes: dict[str, Floats]


def news(n_items: int = 1_000, n_users: int = 200, seed: int = 0) -> News:
    """Articles, one a minute, half of them Chinese; readers of one language or both.

    >>> [item.title for item in news(2, 1).items]
    ['A debut novel opened a night exhibition in Lisbon', '突尼斯: 反对党否决改革方案']
    """
    rng = np.random.default_rng(seed)
    items: list[Item] = []
    topics: dict[str, Floats] = {}
    for i in range(n_items):
        first, second = rng.choice(len(TOPICS), 2, replace=False).tolist()
        chinese = int(rng.integers(2))
        subjects, predicates = _LINES[5 * first + 2 * chinese + 1 : 5 * first + 2 * chinese + 3]
        words = [str(rng.choice(some)) for some in (subjects, predicates, _WHERE[chinese])]
        title = "{2}: {0}{1}" if chinese else "{0} {1} in {2}"
        item = Item(
            id=f"news:{i + 1}",
            title=title.format(*words),
            tags=(_NAMES[first][chinese], _NAMES[second][chinese]),
            language="zh" if chinese else "en",
            at=START + i * MINUTE,
        )
        items.append(item)
        vector = np.zeros(2 * len(TOPICS), np.float32)
        vector[[chinese * len(TOPICS) + topic for topic in (first, second)]] = 0.8, 0.2
        topics[item.id] = vector
    tastes: dict[str, Floats] = {}
    for i in range(n_users):
        taste = rng.uniform(0, 0.3, len(TOPICS))
        taste[rng.choice(len(TOPICS), 2, replace=False)] = 1.0
        reads = ((1.0, 0.1), (0.1, 1.0), (1.0, 1.0))[int(rng.integers(3))]
        tastes[f"user:{i + 1}"] = np.concatenate([taste * r for r in reads]).astype(np.float32)
    return News(tuple(items), topics, tastes)
