"""The papers that this library follows, as BibTeX entries."""

from typing import NamedTuple


class Paper(NamedTuple):
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
    "mcmahan2017communication": Paper(
        "McMahan, Brendan and Moore, Eider and Ramage, Daniel and Hampson, Seth and "
        'Ag{\\"u}era y Arcas, Blaise',
        "Communication-Efficient Learning of Deep Networks from Decentralized Data",
        2017,
        "1602.05629",
    ),
    "hsu2019measuring": Paper(
        "Hsu, Tzu-Ming Harry and Qi, Hang and Brown, Matthew",
        "Measuring the Effects of Non-Identical Data Distribution for Federated "
        "Visual Classification",
        2019,
        "1909.06335",
    ),
    "reddi2021adaptive": Paper(
        "Reddi, Sashank J. and Charles, Zachary and Zaheer, Manzil and Garrett, "
        "Zachary and Rush, Keith and Kone{\\v{c}}n{\\'y}, Jakub and Kumar, Sanjiv and "
        "McMahan, H. Brendan",
        "Adaptive Federated Optimization",
        2021,
        "2003.00295",
    ),
    "li2020federated": Paper(
        "Li, Tian and Sahu, Anit Kumar and Zaheer, Manzil and Sanjabi, Maziar and "
        "Talwalkar, Ameet and Smith, Virginia",
        "Federated Optimization in Heterogeneous Networks",
        2020,
        "1812.06127",
    ),
    "karimireddy2020scaffold": Paper(
        "Karimireddy, Sai Praneeth and Kale, Satyen and Mohri, Mehryar and Reddi, "
        "Sashank J. and Stich, Sebastian U. and Suresh, Ananda Theertha",
        "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
        2020,
        "1910.06378",
    ),
    "noble2022differentially": Paper(
        "Noble, Maxence and Bellet, Aur{\\'e}lien and Dieuleveut, Aymeric",
        "Differentially Private Federated Learning on Heterogeneous Data",
        2022,
        "2111.09278",
    ),
    "wang2020tackling": Paper(
        "Wang, Jianyu and Liu, Qinghua and Liang, Hao and Joshi, Gauri and Poor, H. "
        "Vincent",
        "Tackling the Objective Inconsistency Problem in Heterogeneous Federated "
        "Optimization",
        2020,
        "2007.07481",
    ),
    "acar2021federated": Paper(
        "Acar, Durmus Alp Emre and Zhao, Yue and Matas Navarro, Ramon and Mattina, "
        "Matthew and Whatmough, Paul N. and Saligrama, Venkatesh",
        "Federated Learning Based on Dynamic Regularization",
        2021,
        "2111.04263",
    ),
    "karimireddy2020mime": Paper(
        "Karimireddy, Sai Praneeth and Jaggi, Martin and Kale, Satyen and Mohri, "
        "Mehryar and Reddi, Sashank J. and Stich, Sebastian U. and Suresh, Ananda "
        "Theertha",
        "Mime: Mimicking Centralized Stochastic Algorithms in Federated Learning",
        2020,
        "2008.03606",
    ),
    "jhunjhunwala2023fedexp": Paper(
        "Jhunjhunwala, Divyansh and Wang, Shiqiang and Joshi, Gauri",
        "FedExP: Speeding Up Federated Averaging via Extrapolation",
        2023,
        "2301.09604",
    ),
    "li2020fair": Paper(
        "Li, Tian and Sanjabi, Maziar and Beirami, Ahmad and Smith, Virginia",
        "Fair Resource Allocation in Federated Learning",
        2020,
        "1905.10497",
    ),
    "yin2018byzantine": Paper(
        "Yin, Dong and Chen, Yudong and Ramchandran, Kannan and Bartlett, Peter",
        "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
        2018,
        "1803.01498",
    ),
    "blanchard2017machine": Paper(
        "Blanchard, Peva and El Mhamdi, El Mahdi and Guerraoui, Rachid and Stainer, "
        "Julien",
        "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
        2017,
        "1703.02757",
    ),
    "pillutla2019robust": Paper(
        "Pillutla, Krishna and Kakade, Sham M. and Harchaoui, Zaid",
        "Robust Aggregation for Federated Learning",
        2019,
        "1912.13445",
    ),
    "sun2019can": Paper(
        "Sun, Ziteng and Kairouz, Peter and Suresh, Ananda Theertha and McMahan, H. "
        "Brendan",
        "Can You Really Backdoor Federated Learning?",
        2019,
        "1911.07963",
    ),
    "li2019rsa": Paper(
        "Li, Liping and Xu, Wei and Chen, Tianyi and Giannakis, Georgios B. and Ling, "
        "Qing",
        "RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed Learning "
        "from Heterogeneous Datasets",
        2019,
        "1811.03761",
    ),
    "bagdasaryan2020how": Paper(
        "Bagdasaryan, Eugene and Veit, Andreas and Hua, Yiqing and Estrin, Deborah and "
        "Shmatikov, Vitaly",
        "How To Backdoor Federated Learning",
        2020,
        "1807.00459",
    ),
    "suresh2017distributed": Paper(
        "Suresh, Ananda Theertha and Yu, Felix X. and Kumar, Sanjiv and McMahan, H. "
        "Brendan",
        "Distributed Mean Estimation with Limited Communication",
        2017,
        "1611.00429",
    ),
    "konecny2016randomized": Paper(
        "Kone{\\v{c}}n{\\'y}, Jakub and Richt{\\'a}rik, Peter",
        "Randomized Distributed Mean Estimation: Accuracy vs Communication",
        2016,
        "1611.07555",
    ),
    "stich2018sparsified": Paper(
        "Stich, Sebastian U. and Cordonnier, Jean-Baptiste and Jaggi, Martin",
        "Sparsified SGD with Memory",
        2018,
        "1809.07599",
    ),
    "karimireddy2019error": Paper(
        "Karimireddy, Sai Praneeth and Rebjock, Quentin and Stich, Sebastian U. and "
        "Jaggi, Martin",
        "Error Feedback Fixes SignSGD and other Gradient Compression Schemes",
        2019,
        "1901.09847",
    ),
    "mohri2019agnostic": Paper(
        "Mohri, Mehryar and Sivek, Gary and Suresh, Ananda Theertha",
        "Agnostic Federated Learning",
        2019,
        "1902.00146",
    ),
    "ro2021communication": Paper(
        "Ro, Jae and Chen, Mingqing and Mathews, Rajiv and Mohri, Mehryar and Suresh, "
        "Ananda Theertha",
        "Communication-Efficient Agnostic Federated Averaging",
        2021,
        "2104.02748",
    ),
    "mcmahan2018learning": Paper(
        "McMahan, H. Brendan and Ramage, Daniel and Talwar, Kunal and Zhang, Li",
        "Learning Differentially Private Recurrent Language Models",
        2018,
        "1710.06963",
    ),
    "andrew2021differentially": Paper(
        "Andrew, Galen and Thakkar, Om and McMahan, H. Brendan and Ramaswamy, Swaroop",
        "Differentially Private Learning with Adaptive Clipping",
        2021,
        "1905.03871",
    ),
    "canonne2020discrete": Paper(
        "Canonne, Cl{\\'e}ment L. and Kamath, Gautam and Steinke, Thomas",
        "The Discrete Gaussian for Differential Privacy",
        2020,
        "2004.00010",
    ),
    "agarwal2021skellam": Paper(
        "Agarwal, Naman and Kairouz, Peter and Liu, Ziyu",
        "The Skellam Mechanism for Differentially Private Federated Learning",
        2021,
        "2110.04995",
    ),
    "kairouz2021practical": Paper(
        "Kairouz, Peter and McMahan, H. Brendan and Song, Shuang and Thakkar, Om and "
        "Thakurta, Abhradeep and Xu, Zheng",
        "Practical and Private (Deep) Learning Without Sampling or Shuffling",
        2021,
        "2103.00039",
    ),
    "choquettechoo2023amplified": Paper(
        "Choquette-Choo, Christopher A. and Ganesh, Arun and McKenna, Ryan and "
        "McMahan, H. Brendan and Rush, Keith and Thakurta, Abhradeep and Xu, Zheng",
        "(Amplified) Banded Matrix Factorization: A Unified Approach to Private "
        "Training",
        2023,
        "2306.08153",
    ),
    "dvijotham2024efficient": Paper(
        "Dvijotham, Krishnamurthy Dj and McMahan, H. Brendan and Pillutla, Krishna "
        "and Steinke, Thomas and Thakurta, Abhradeep",
        "Efficient and Near-Optimal Noise Generation for Streaming Differential "
        "Privacy",
        2024,
        "2404.16706",
    ),
    "bhowmick2018protection": Paper(
        "Bhowmick, Abhishek and Duchi, John and Freudiger, Julien and Kapoor, Gaurav "
        "and Rogers, Ryan",
        "Protection Against Reconstruction and Its Applications in Private Federated "
        "Learning",
        2018,
        "1812.00984",
    ),
    "abadi2016deep": Paper(
        "Abadi, Mart{\\'i}n and Chu, Andy and Goodfellow, Ian and McMahan, H. Brendan "
        "and Mironov, Ilya and Talwar, Kunal and Zhang, Li",
        "Deep Learning with Differential Privacy",
        2016,
        "1607.00133",
    ),
    "doroshenko2022connect": Paper(
        "Doroshenko, Vadym and Ghazi, Badih and Kamath, Pritish and Kumar, Ravi and "
        "Manurangsi, Pasin",
        "Connect the Dots: Tighter Discrete Approximations of Privacy Loss "
        "Distributions",
        2022,
        "2207.04380",
    ),
    "hu2021lora": Paper(
        "Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and "
        "Li, Yuanzhi and Wang, Shean and Wang, Lu and Chen, Weizhu",
        "LoRA: Low-Rank Adaptation of Large Language Models",
        2021,
        "2106.09685",
    ),
    "sun2024improving": Paper(
        "Sun, Youbang and Li, Zitao and Li, Yaliang and Ding, Bolin",
        "Improving LoRA in Privacy-preserving Federated Learning",
        2024,
        "2403.12313",
    ),
    "li2021ditto": Paper(
        "Li, Tian and Hu, Shengyuan and Beirami, Ahmad and Smith, Virginia",
        "Ditto: Fair and Robust Federated Learning Through Personalization",
        2021,
        "2012.04221",
    ),
    "deng2020adaptive": Paper(
        "Deng, Yuyang and Kamani, Mohammad Mahdi and Mahdavi, Mehrdad",
        "Adaptive Personalized Federated Learning",
        2020,
        "2003.13461",
    ),
    "yu2020salvaging": Paper(
        "Yu, Tao and Bagdasaryan, Eugene and Shmatikov, Vitaly",
        "Salvaging Federated Learning by Local Adaptation",
        2020,
        "2002.04758",
    ),
    "arivazhagan2019federated": Paper(
        "Arivazhagan, Manoj Ghuhan and Aggarwal, Vinay and Singh, Aaditya Kumar and "
        "Choudhary, Sunav",
        "Federated Learning with Personalization Layers",
        2019,
        "1912.00818",
    ),
    "collins2021exploiting": Paper(
        "Collins, Liam and Hassani, Hamed and Mokhtari, Aryan and Shakkottai, Sanjay",
        "Exploiting Shared Representations for Personalized Federated Learning",
        2021,
        "2102.07078",
    ),
    "ghosh2020efficient": Paper(
        "Ghosh, Avishek and Chung, Jichan and Yin, Dong and Ramchandran, Kannan",
        "An Efficient Framework for Clustered Federated Learning",
        2020,
        "2006.04088",
    ),
    "mansour2020three": Paper(
        "Mansour, Yishay and Mohri, Mehryar and Ro, Jae and Suresh, Ananda Theertha",
        "Three Approaches for Personalization with Applications to Federated Learning",
        2020,
        "2002.10619",
    ),
    "nguyen2022federated": Paper(
        "Nguyen, John and Malik, Kshitiz and Zhan, Hongyuan and Yousefpour, Ashkan and "
        "Rabbat, Michael and Malek, Mani and Huba, Dzmitry",
        "Federated Learning with Buffered Asynchronous Aggregation",
        2022,
        "2106.06639",
    ),
}
