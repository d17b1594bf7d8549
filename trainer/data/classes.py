"""Classes: which of them is the disease, as far as their names say.

Of two classes, one of which is called healthy, the other is the disease. Everything else is asked:
a network that reports the probability of being healthy looks as good as any in every figure.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from trainer.data.labelled import FIRST_NAMING, NAMING, listed
from trainer.errors import DatasetError

#: What a person types to say it.
OPTION: Final = "--positive CLASS"

#: The class that is the disease in jobs of the first naming, compared in lower case; where none is
#: called so it is the last.
_FIRST_DISEASE = "pneumonia"

#: Letters that no accent makes of others: the Turkish i without a dot, ł, ø and đ.
_LETTERS = {0x131: "i", 0x142: "l", 0xF8: "o", 0x111: "d"}


def _folded(name: str) -> str:
    """A name in lower case without accents, its words one space apart.

    A number at either end of other words orders folders, or is a year, and is left out.
    """
    name = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", name)  # NoFinding
    letters = unicodedata.normalize("NFKD", name.casefold())
    letters = "".join(one for one in letters if not unicodedata.combining(one))
    letters = letters.translate(_LETTERS)
    words = re.sub(r"[\W_]+", " ", letters).split()
    while len(words) > 1 and words[0].isdecimal():
        del words[0]
    while len(words) > 1 and words[-1].isdecimal():
        del words[-1]
    return " ".join(words)


def _names(*lines: str) -> frozenset[str]:
    return frozenset(_folded(name) for line in lines for name in line.split(", "))


#: How healthy films are called, by language.
_HEALTHY = _names(
    # English, and what others write so
    "normal, norm, healthy, clear, unremarkable, control, controls, unaffected, wnl, nad",
    "within normal limits, nothing abnormal detected, disease free",
    # French, Spanish, Portuguese, Italian, Catalan, Romanian
    "sain, sains, saine, saines, normale, normaux, normales, rien à signaler, ras, r.a.s.",
    "sano, sanos, sana, sanas, normalidad, saudável, saudáveis, normais, sadio, normali",
    "nella norma, sănătos, sănătoși, normală",
    # German, Dutch, Danish, Norwegian, Swedish
    "gesund, gesunde, unauffällig, unauffaellig, o.B., Normalbefund, normaal, gezond, rask, raske",
    "frisk, friske, friska",
    # Finnish, Estonian, Hungarian, Turkish, Azerbaijani
    "terve, terveet, normaali, normaalne, egészséges, normál, sağlam, saglikli, bulgu yok",
    "patoloji yok",
    # Polish, Czech, Slovak, Slovenian, Croatian, Lithuanian, Latvian
    "norma, w normie, zdrowy, zdrowi, zdrowe, prawidłowy, prawidłowe, zdravý, zdraví, zdravé",
    "normální, normálny, normálne, normalno, zdrav, zdravo, zdravi, sveikas, vesels",
    # Russian, Ukrainian, Bulgarian, Serbian, Greek
    "норма, в норме, нормальный, нормальные, нормальная, нормальні, нормальна, здоров, здоровый",
    "здоровые, здоровий, здорові, здрав, здрави, нормален, нормално, φυσιολογικό, φυσιολογικά",
    "φυσιολογική, υγιής, υγιείς",
    # Arabic, Persian, Urdu, Hebrew, Hindi
    "صحي, سليم, سليمة, طبيعي, طبيعية, سالم, نرمال, طبیعی, صحت مند, תקין, בריא, सामान्य, स्वस्थ",
    # Chinese, Japanese, Korean, Vietnamese, Thai, Indonesian, Malay
    "正常, 健康, 未见异常, 未見異常, 无异常, 無異常, 健常, 異常なし, 所見なし, 정상, 건강",
    "bình thường, khỏe mạnh, ปกติ, sehat, sihat",
)

#: Words that say that what is tested for is not there.
_NEGATIVE = _names(
    "negative, neg, absent, négatif, negativo, negativa, negativ, negatief, negatív, negativní",
    "отрицательный, негативный, негативний, αρνητικό, سلبي, منفی, שלילי, नकारात्मक",
    "阴性, 陰性, 음성, âm tính, negatif",
)

#: Words that deny what comes after them.
_NO = _names(
    "no, non, not, without, w/o, sans, aucun, aucune, sin, ningún, sem, senza, nessun, nessuna",
    "kein, keine, ohne, geen, zonder, ingen, inga, utan, uden, uten, ei, bez, brak, без, нет",
    "немає",
)

#: What they deny where it is any disease.
_NOTHING = _names(
    "finding, findings, disease, diseases, pathology, pathologies, abnormality, abnormalities",
    "abnormality detected, abnormalities detected, abnormal finding, abnormal findings, lesion",
    "lesions, anomalie, anomalies, pathologie, maladie, hallazgo, hallazgos, alteraciones",
    "patología, achados, alterações, doença, alterazioni, reperto, reperti, Befund",
    "pathologischen Befund, Auffälligkeiten, afwijkingen, afwijking, anmärkning, zmian, nálezu",
    "patologii, патологии, патологий, изменений, патології, змін",
)

#: Words about films that say nothing of what they show.
_FILMS = _names(
    "film, films, image, images, img, imgs, picture, pictures, photos, case, cases, patient",
    "patients, subject, subjects, person, persons, people, class, label, scan, scans, study",
    "studies, exam, exams, x, ray, rays, xray, xrays, cxr, radiograph, radiographs, chest",
    "thorax, lung, lungs, pa, ap, the, of, for",
)


def disease(labels: Sequence[str], wanted: str | None = None, naming: int = NAMING) -> str:
    """The class that is the disease, whose probability is reported.

    `wanted` is the one that a person or a model named. `naming` is the job's: jobs of the first one
    go on by its rule, which asks nothing. Raises DatasetError where there is no such class, and
    where the names do not say which it is.
    """
    if wanted is not None:
        if wanted not in labels:
            raise DatasetError(
                f"the positive class {wanted} is none of {listed(labels)}; name one of those with "
                f"{OPTION}"
            )
        return wanted
    if naming <= FIRST_NAMING:
        return next((name for name in labels if name.lower() == _FIRST_DISEASE), labels[-1])
    if len(labels) != 2:
        raise DatasetError(
            f"there are {len(labels)} classes ({listed(labels)}); name the one that is the disease "
            f"with {OPTION}: threshold, gate and figures are of it against all others together"
        )
    well = [name for name in labels if healthy(name, labels)]
    if len(well) == 1:
        return next(name for name in labels if name not in well)
    one, other = labels
    found = f"both {one} and {other} are" if well else f"neither {one} nor {other} is"
    raise DatasetError(
        f"which class is the disease is not clear, as {found} known as a name of healthy films; "
        f"name the disease with {OPTION}, for example --positive {other}"
    )


def meaning(labels: Sequence[str], positive: str) -> str:
    """A sentence for a person: which class is the disease, and what follows."""
    others = [name for name in labels if name != positive]
    if len(others) == 1:
        return (
            f"The disease is {positive}, against {others[0]}: probabilities, threshold and figures "
            "are of it."
        )
    return (
        f"The disease is {positive}, against {listed(others)} together: probabilities, threshold, "
        "figures, the gate between models and comparisons of groups of films are of it alone. "
        "Which of the others a film below the threshold is called is the likeliest, and is not "
        "judged."
    )


def healthy(name: str, labels: Sequence[str] = ()) -> bool:
    """Whether a class is called healthy, or is the absence of another one of `labels`."""
    folded = _folded(name)
    words = [word for word in folded.split() if word not in _FILMS]
    if folded in _HEALTHY | _NEGATIVE or " ".join(words) in _HEALTHY | _NEGATIVE:
        return True
    if words and all(word in _HEALTHY | _NEGATIVE for word in words):
        return True
    others = [_folded(other) for other in labels if other != name]
    denied = _denied(words)
    if denied and (denied in _NOTHING or denied in others):
        return True
    tested = [word for word in words if word not in _NEGATIVE]
    return len(tested) < len(words) and any(set(tested) <= set(other.split()) for other in others)


def _denied(words: Sequence[str]) -> str:
    """What a name says that is not there; empty where it says nothing of the kind."""
    if len(words) > 1 and words[0] in _NO:
        return " ".join(words[1:])
    if len(words) > 1 and words[-1] == "free":
        return " ".join(words[:-1])
    joined = "".join(words)
    # Written as one word: nofinding, nonCOVID.
    no = next((no for no in ("non", "no") if joined.startswith(no)), "")
    return joined.removeprefix(no) if no else ""
