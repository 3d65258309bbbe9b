"""What stands out in an analysis, in words: computed sentences, each with the chance level or the rest of the data to compare it with.

for insight in attviz.insights(analysis):
    print(insight.text, insight.null)
"""

from attviz._insights._cards import head_cards
from attviz._insights._change import change_sentences
from attviz._insights._corpus import Corpus, read_corpus
from attviz._insights._insight import Insight
from attviz._insights._measure import Measure, measure_of
from attviz._insights._readings import reading_sentences
from attviz._insights._sentences import insights, sentences
from attviz._insights._text import text_sentences

__all__ = [
    "Corpus",
    "Insight",
    "Measure",
    "change_sentences",
    "head_cards",
    "insights",
    "measure_of",
    "read_corpus",
    "reading_sentences",
    "sentences",
    "text_sentences",
]
