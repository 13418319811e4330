"""Which papers a run rests on."""

from typing import Any, NamedTuple, TextIO

from jaxfed import _check as check
from jaxfed.typing import FederatedAlgorithm


class _Paper(NamedTuple):
    authors: str
    title: str
    year: int
    arxiv: str

    def bibtex(self, key: str) -> str:
        """Returns its entry."""
        fields = {
            "author": self.authors,
            "title": f"{{{self.title}}}",
            "year": str(self.year),
            "eprint": self.arxiv,
            "archiveprefix": "arXiv",
        }
        lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        return f"@misc{{{key},\n{lines}\n}}"


PAPERS = {
    "mcmahan2017communication": _Paper(
        "McMahan, Brendan and Moore, Eider and Ramage, Daniel and Hampson, Seth and "
        'Ag{\\"u}era y Arcas, Blaise',
        "Communication-Efficient Learning of Deep Networks from Decentralized Data",
        2017,
        "1602.05629",
    ),
    "hsu2019measuring": _Paper(
        "Hsu, Tzu-Ming Harry and Qi, Hang and Brown, Matthew",
        "Measuring the Effects of Non-Identical Data Distribution for Federated "
        "Visual Classification",
        2019,
        "1909.06335",
    ),
    "reddi2021adaptive": _Paper(
        "Reddi, Sashank J. and Charles, Zachary and Zaheer, Manzil and Garrett, "
        "Zachary and Rush, Keith and Kone{\\v{c}}n{\\'y}, Jakub and Kumar, Sanjiv and "
        "McMahan, H. Brendan",
        "Adaptive Federated Optimization",
        2021,
        "2003.00295",
    ),
    "li2020federated": _Paper(
        "Li, Tian and Sahu, Anit Kumar and Zaheer, Manzil and Sanjabi, Maziar and "
        "Talwalkar, Ameet and Smith, Virginia",
        "Federated Optimization in Heterogeneous Networks",
        2020,
        "1812.06127",
    ),
    "karimireddy2020scaffold": _Paper(
        "Karimireddy, Sai Praneeth and Kale, Satyen and Mohri, Mehryar and Reddi, "
        "Sashank J. and Stich, Sebastian U. and Suresh, Ananda Theertha",
        "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
        2020,
        "1910.06378",
    ),
    "noble2022differentially": _Paper(
        "Noble, Maxence and Bellet, Aur{\\'e}lien and Dieuleveut, Aymeric",
        "Differentially Private Federated Learning on Heterogeneous Data",
        2022,
        "2111.09278",
    ),
    "wang2020tackling": _Paper(
        "Wang, Jianyu and Liu, Qinghua and Liang, Hao and Joshi, Gauri and Poor, H. "
        "Vincent",
        "Tackling the Objective Inconsistency Problem in Heterogeneous Federated "
        "Optimization",
        2020,
        "2007.07481",
    ),
    "acar2021federated": _Paper(
        "Acar, Durmus Alp Emre and Zhao, Yue and Matas Navarro, Ramon and Mattina, "
        "Matthew and Whatmough, Paul N. and Saligrama, Venkatesh",
        "Federated Learning Based on Dynamic Regularization",
        2021,
        "2111.04263",
    ),
    "karimireddy2020mime": _Paper(
        "Karimireddy, Sai Praneeth and Jaggi, Martin and Kale, Satyen and Mohri, "
        "Mehryar and Reddi, Sashank J. and Stich, Sebastian U. and Suresh, Ananda "
        "Theertha",
        "Mime: Mimicking Centralized Stochastic Algorithms in Federated Learning",
        2020,
        "2008.03606",
    ),
    "jhunjhunwala2023fedexp": _Paper(
        "Jhunjhunwala, Divyansh and Wang, Shiqiang and Joshi, Gauri",
        "FedExP: Speeding Up Federated Averaging via Extrapolation",
        2023,
        "2301.09604",
    ),
    "li2020fair": _Paper(
        "Li, Tian and Sanjabi, Maziar and Beirami, Ahmad and Smith, Virginia",
        "Fair Resource Allocation in Federated Learning",
        2020,
        "1905.10497",
    ),
    "yin2018byzantine": _Paper(
        "Yin, Dong and Chen, Yudong and Ramchandran, Kannan and Bartlett, Peter",
        "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
        2018,
        "1803.01498",
    ),
    "blanchard2017machine": _Paper(
        "Blanchard, Peva and El Mhamdi, El Mahdi and Guerraoui, Rachid and Stainer, "
        "Julien",
        "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
        2017,
        "1703.02757",
    ),
    "pillutla2019robust": _Paper(
        "Pillutla, Krishna and Kakade, Sham M. and Harchaoui, Zaid",
        "Robust Aggregation for Federated Learning",
        2019,
        "1912.13445",
    ),
    "sun2019can": _Paper(
        "Sun, Ziteng and Kairouz, Peter and Suresh, Ananda Theertha and McMahan, H. "
        "Brendan",
        "Can You Really Backdoor Federated Learning?",
        2019,
        "1911.07963",
    ),
    "li2019rsa": _Paper(
        "Li, Liping and Xu, Wei and Chen, Tianyi and Giannakis, Georgios B. and Ling, "
        "Qing",
        "RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed Learning "
        "from Heterogeneous Datasets",
        2019,
        "1811.03761",
    ),
    "bagdasaryan2020how": _Paper(
        "Bagdasaryan, Eugene and Veit, Andreas and Hua, Yiqing and Estrin, Deborah and "
        "Shmatikov, Vitaly",
        "How To Backdoor Federated Learning",
        2020,
        "1807.00459",
    ),
    "suresh2017distributed": _Paper(
        "Suresh, Ananda Theertha and Yu, Felix X. and Kumar, Sanjiv and McMahan, H. "
        "Brendan",
        "Distributed Mean Estimation with Limited Communication",
        2017,
        "1611.00429",
    ),
    "konecny2016randomized": _Paper(
        "Kone{\\v{c}}n{\\'y}, Jakub and Richt{\\'a}rik, Peter",
        "Randomized Distributed Mean Estimation: Accuracy vs Communication",
        2016,
        "1611.07555",
    ),
    "stich2018sparsified": _Paper(
        "Stich, Sebastian U. and Cordonnier, Jean-Baptiste and Jaggi, Martin",
        "Sparsified SGD with Memory",
        2018,
        "1809.07599",
    ),
    "karimireddy2019error": _Paper(
        "Karimireddy, Sai Praneeth and Rebjock, Quentin and Stich, Sebastian U. and "
        "Jaggi, Martin",
        "Error Feedback Fixes SignSGD and other Gradient Compression Schemes",
        2019,
        "1901.09847",
    ),
    "mohri2019agnostic": _Paper(
        "Mohri, Mehryar and Sivek, Gary and Suresh, Ananda Theertha",
        "Agnostic Federated Learning",
        2019,
        "1902.00146",
    ),
    "ro2021communication": _Paper(
        "Ro, Jae and Chen, Mingqing and Mathews, Rajiv and Mohri, Mehryar and Suresh, "
        "Ananda Theertha",
        "Communication-Efficient Agnostic Federated Averaging",
        2021,
        "2104.02748",
    ),
    "mcmahan2018learning": _Paper(
        "McMahan, H. Brendan and Ramage, Daniel and Talwar, Kunal and Zhang, Li",
        "Learning Differentially Private Recurrent Language Models",
        2018,
        "1710.06963",
    ),
    "andrew2021differentially": _Paper(
        "Andrew, Galen and Thakkar, Om and McMahan, H. Brendan and Ramaswamy, Swaroop",
        "Differentially Private Learning with Adaptive Clipping",
        2021,
        "1905.03871",
    ),
    "canonne2020discrete": _Paper(
        "Canonne, Cl{\\'e}ment L. and Kamath, Gautam and Steinke, Thomas",
        "The Discrete Gaussian for Differential Privacy",
        2020,
        "2004.00010",
    ),
    "agarwal2021skellam": _Paper(
        "Agarwal, Naman and Kairouz, Peter and Liu, Ziyu",
        "The Skellam Mechanism for Differentially Private Federated Learning",
        2021,
        "2110.04995",
    ),
    "kairouz2021practical": _Paper(
        "Kairouz, Peter and McMahan, H. Brendan and Song, Shuang and Thakkar, Om and "
        "Thakurta, Abhradeep and Xu, Zheng",
        "Practical and Private (Deep) Learning Without Sampling or Shuffling",
        2021,
        "2103.00039",
    ),
    "choquettechoo2023amplified": _Paper(
        "Choquette-Choo, Christopher A. and Ganesh, Arun and McKenna, Ryan and "
        "McMahan, H. Brendan and Rush, Keith and Thakurta, Abhradeep and Xu, Zheng",
        "(Amplified) Banded Matrix Factorization: A Unified Approach to Private "
        "Training",
        2023,
        "2306.08153",
    ),
    "dvijotham2024efficient": _Paper(
        "Dvijotham, Krishnamurthy Dj and McMahan, H. Brendan and Pillutla, Krishna "
        "and Steinke, Thomas and Thakurta, Abhradeep",
        "Efficient and Near-Optimal Noise Generation for Streaming Differential "
        "Privacy",
        2024,
        "2404.16706",
    ),
    "bhowmick2018protection": _Paper(
        "Bhowmick, Abhishek and Duchi, John and Freudiger, Julien and Kapoor, Gaurav "
        "and Rogers, Ryan",
        "Protection Against Reconstruction and Its Applications in Private Federated "
        "Learning",
        2018,
        "1812.00984",
    ),
    "abadi2016deep": _Paper(
        "Abadi, Mart{\\'i}n and Chu, Andy and Goodfellow, Ian and McMahan, H. Brendan "
        "and Mironov, Ilya and Talwar, Kunal and Zhang, Li",
        "Deep Learning with Differential Privacy",
        2016,
        "1607.00133",
    ),
    "doroshenko2022connect": _Paper(
        "Doroshenko, Vadym and Ghazi, Badih and Kamath, Pritish and Kumar, Ravi and "
        "Manurangsi, Pasin",
        "Connect the Dots: Tighter Discrete Approximations of Privacy Loss "
        "Distributions",
        2022,
        "2207.04380",
    ),
    "hu2021lora": _Paper(
        "Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and "
        "Li, Yuanzhi and Wang, Shean and Wang, Lu and Chen, Weizhu",
        "LoRA: Low-Rank Adaptation of Large Language Models",
        2021,
        "2106.09685",
    ),
    "sun2024improving": _Paper(
        "Sun, Youbang and Li, Zitao and Li, Yaliang and Ding, Bolin",
        "Improving LoRA in Privacy-preserving Federated Learning",
        2024,
        "2403.12313",
    ),
}
ALGORITHMS = {
    "fedavg": ["mcmahan2017communication"],
    "fedsgd": ["mcmahan2017communication"],
    "fedavgm": ["hsu2019measuring"],
    "fedadagrad": ["reddi2021adaptive"],
    "fedyogi": ["reddi2021adaptive"],
    "fedadam": ["reddi2021adaptive"],
    "fedprox": ["li2020federated"],
    "scaffold": ["karimireddy2020scaffold"],
    "fednova": ["wang2020tackling"],
    "feddyn": ["acar2021federated"],
    "mime": ["karimireddy2020mime"],
    "mimelite": ["karimireddy2020mime"],
    "fedexp": ["jhunjhunwala2023fedexp"],
    "qffl": ["li2020fair"],
    "afl": ["mohri2019agnostic", "ro2021communication"],
    "evaluation": [],
}
# by the name of an attack in that of local work
ATTACKS = {
    "sign_flip": ["li2019rsa"],
    "scaled": ["bagdasaryan2020how"],
    "gaussian_noise": ["blanchard2017machine"],
}
# by the name of a compressor's class
COMPRESSION = {
    "StochasticQuantization": ["suresh2017distributed"],
    "TopK": ["stich2018sparsified"],
    "RandomK": ["konecny2016randomized", "stich2018sparsified"],
    "Rotated": ["suresh2017distributed"],
    "error feedback": ["karimireddy2019error"],
}
# by the name of a privacy object's class, or that of its noise, clip or rule
# what an algorithm cannot know that its loss is made of
PARTS = {
    "lora": ["hu2021lora"],
    "ffa_lora": ["hu2021lora", "sun2024improving"],
}
# by the name of a privacy object's class, or that of its noise or clip
PRIVACY = {
    "Central": ["mcmahan2018learning", "doroshenko2022connect"],
    "CentralCorrelated": ["mcmahan2018learning", "doroshenko2022connect"],
    "Hypothetical": ["mcmahan2018learning", "doroshenko2022connect"],
    "Local": ["doroshenko2022connect"],
    "ExampleLevel": ["abadi2016deep", "doroshenko2022connect"],
    "Gaussian": ["canonne2020discrete"],
    "Laplace": ["canonne2020discrete"],
    "Skellam": ["agarwal2021skellam"],
    "Tree": ["kairouz2021practical", "canonne2020discrete"],
    "Banded": ["choquettechoo2023amplified", "canonne2020discrete"],
    "BLT": ["dvijotham2024efficient", "canonne2020discrete"],
    "PrivUnit": ["bhowmick2018protection"],
    "Adaptive": ["andrew2021differentially"],
    "Median": ["yin2018byzantine"],
    "TrimmedMean": ["yin2018byzantine"],
    "Krum": ["blanchard2017machine"],
    "GeometricMedian": ["pillutla2019robust"],
    "NormBounded": ["sun2019can"],
}


def cite(
    algorithm: FederatedAlgorithm, *parts: str, file: TextIO | None = None
) -> None:
    """Prints the BibTeX entries of what an algorithm is made of.

    Of the method, its privacy object with clip and noise, the accountant, a rule of
    robust aggregation and an attack; what was published without a name of its own, such
    as your own method, has none.

    Args:
        algorithm: any.
        *parts: what an algorithm cannot know that its loss is made of: `"lora"`, or
            `"ffa_lora"`, adapters of which b alone is trained.
        file: where to; standard output if None.

    Raises:
        TypeError: it is no algorithm.
        ValueError: a part is unknown.
    """
    check.instance(
        FederatedAlgorithm,
        "pass for example algorithms.fedavg(...)",
        algorithm=algorithm,
    )
    used = _keys(algorithm)
    for part in parts:
        used += PARTS[check.one_of(PARTS, part=part)]
    used = list(dict.fromkeys(used))
    print("\n\n".join(PAPERS[key].bibtex(key) for key in used), file=file)


def _keys(algorithm: FederatedAlgorithm) -> list[str]:
    privacy: Any = algorithm.aggregator
    names = ("noise", "clipping", "rule")
    parts = [privacy, *(getattr(privacy, name, None) for name in names)]
    found = list(ALGORITHMS.get(algorithm.name, []))
    if algorithm.local.kind == "prox":
        found += ALGORITHMS["fedprox"]
    if algorithm.name == "scaffold" and type(privacy).__name__ in PRIVACY:
        found.append("noble2022differentially")
    found += ATTACKS.get(algorithm.local.name.partition("(")[0], [])
    found += _of_compression(algorithm.local.compression)
    for part in parts:
        found += PRIVACY.get(type(part).__name__, [])
    return list(dict.fromkeys(found))


def _of_compression(compression: Any) -> list[str]:
    part, names = getattr(compression, "compressor", None), []
    while part is not None:
        names.append(type(part).__name__)
        part = getattr(part, "inner", None)
    if getattr(compression, "error_feedback", False):
        names.append("error feedback")
    return [key for name in names for key in COMPRESSION.get(name, [])]
