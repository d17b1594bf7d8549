"""Which class is the disease: what names say, and what is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer import samples
from trainer.checking import checkup, division
from trainer.data import classes, dataset, gathering
from trainer.data.labelled import FIRST_NAMING
from trainer.errors import DatasetError

#: The disease and the healthy class, as people call them.
TOLD = (
    ("PNEUMONIA", "NORMAL"), ("COVID", "NORMAL"), ("ABNORMAL", "NORMAL"), ("Abnormal", "normal"),
    ("Effusion", "No Finding"), ("effusion", "no_finding"), ("Effusion", "NoFinding"),
    ("Effusion", "NO-FINDINGS"), ("atelectasis", "nofinding"), ("Unhealthy", "Healthy"),
    ("1_PNEUMONIA", "0_NORMAL"), ("0 pneumonia", "1 normal"), ("sick", "healthy controls"),
    ("TB", "Normal lungs"), ("Tuberculosis", "NORMAL (2)"), ("positive", "negative"),
    ("pos", "NEG"), ("TB positive", "TB negative"), ("COVID-19", "non-COVID"),
    ("covid", "nonCOVID"), ("Pneumonia", "no pneumonia"), ("nodule", "no nodule"),
    ("pneumonia", "without_pneumonia"), ("pneumonia", "clear"), ("consolidation", "Unremarkable"),
    ("Pneumonia cases", "Normal cases"), ("pneumonia", "pneumonia-free"),
    ("Disease", "nothing abnormal detected"),
    ("malade", "sain"), ("Pneumonie", "NÉGATIF"), ("pneumopathie", "sans anomalie"),
    ("neumonia", "sano"), ("neumonía", "Sin hallazgos"), ("pneumonia", "saudável"),
    ("polmonite", "nella norma"), ("polmonite", "nessun reperto"), ("Pneumonie", "gesund"),
    ("auffällig", "unauffällig"), ("AUFFÄLLIG", "UNAUFFÄLLIG"), ("Pneumonie", "o.B."),
    ("Pneumonie", "kein Befund"), ("Pneumonie", "ohne pathologischen Befund"),
    ("longontsteking", "normaal"), ("longontsteking", "geen afwijkingen"),
    ("lunginflammation", "frisk"), ("keuhkokuume", "terve"), ("tüdőgyulladás", "egészséges"),
    ("hasta", "sağlam"), ("HASTA", "SAĞLIKLI"), ("zapalenie płuc", "prawidłowe"),
    ("zápal plic", "zdravý"), ("пневмония", "норма"), ("ПНЕВМОНИЯ", "Норма"),
    ("больной", "здоров"), ("пневмония", "без патологии"), ("πνευμονία", "φυσιολογικό"),
    ("مريض", "صحي"), ("التهاب رئوي", "سليم"), ("חולה", "תקין"), ("निमोनिया", "सामान्य"),
    ("肺炎", "正常"), ("肺炎", "未见异常"), ("阳性", "阴性"), ("肺炎", "異常なし"),
    ("폐렴", "정상"), ("viêm phổi", "bình thường"), ("ปอดบวม", "ปกติ"), ("pneumonia", "sehat"),
)  # fmt: skip

#: Two classes of which neither, or each, is healthy by its name; and more than two.
ASKED = (
    ("0", "1"), ("A", "B"), ("PNEUMONIA", "TB"), ("Pneumonia", "pneumothorax"),
    ("bacterial", "viral"), ("BENIGN", "MALIGNANT"), ("ABNORMAL", "SICK"), ("normality", "other"),
    ("Normal", "Healthy"), ("NORMAL", "normal"), ("negative", "no finding"), ("正常", "健康"),
    ("no TB", "pneumonia"), ("nodule", "nonspecific"), ("anormal", "autre"), ("pa", "ap"),
    ("NORMAL", "PNEUMONIA", "TB"), ("COVID", "NORMAL", "VIRAL PNEUMONIA"),
)  # fmt: skip


@pytest.mark.parametrize(("sick", "well"), TOLD)
def test_the_class_beside_the_healthy_one_is_the_disease_in_either_order(
    sick: str, well: str
) -> None:
    assert classes.disease((sick, well)) == classes.disease((well, sick)) == sick
    assert classes.disease((sick, well), wanted=well) == well


@pytest.mark.parametrize("labels", ASKED)
def test_where_the_names_do_not_say_it_the_answer_names_the_option(labels: tuple[str, ...]) -> None:
    for given in (labels, labels[::-1]):
        with pytest.raises(DatasetError, match="--positive CLASS") as asked:
            classes.disease(given)
        assert all(name in str(asked.value) for name in labels)
        assert classes.disease(given, wanted=labels[0]) == labels[0]


def test_a_class_that_is_not_there_is_none() -> None:
    with pytest.raises(DatasetError, match=r"COVID is none of NORMAL, TB; .*--positive CLASS"):
        classes.disease(("NORMAL", "TB"), wanted="COVID")


def test_a_job_of_before_goes_on_by_its_own_rule() -> None:
    for labels, was in (
        (("COVID", "NORMAL"), "NORMAL"),
        (("Pneumonia", "TB"), "Pneumonia"),
        (("A", "B", "C"), "C"),
    ):
        assert classes.disease(labels, naming=FIRST_NAMING) == was


def test_of_more_than_two_classes_it_is_said_what_the_figures_are_of() -> None:
    said = classes.meaning(("NORMAL", "PNEUMONIA", "TB"), "TB")
    assert said.startswith("The disease is TB, against NORMAL, PNEUMONIA together: probabilities, ")
    assert "threshold" in said
    assert "gate" in said
    assert "groups" in said


def test_training_stops_and_asks_and_what_only_divides_or_looks_does_not(tmp_path: Path) -> None:
    samples.fill(tmp_path, patients=60, films=1)
    (tmp_path / "NORMAL").rename(tmp_path / "TB")
    with pytest.raises(DatasetError, match="neither PNEUMONIA nor TB"):
        dataset.read(tmp_path)
    assert dataset.read(tmp_path, positive="TB").positive == "TB"
    assert gathering.classes(tmp_path) == ("PNEUMONIA", "TB")
    assert len(division.divide([tmp_path]).data.films) == 120
    found = checkup.check([tmp_path])
    assert (found.verdict, found.positive) == ("usable, but", None)
    (doubt,) = [one for one in found.findings if one.level == "doubt"]
    assert (doubt.code, "--positive CLASS" in doubt.text) == ("positive_unknown", True)
    found = checkup.check([tmp_path], positive="TB")
    assert (found.verdict, found.positive) == ("ready", "TB")
