"""Names for planning systems after AAPM TG-263 (Mayo et al., Int J Radiat Oncol Biol Phys 2018): at most 16 characters,
no spaces, laterality at the end, the same spelling everywhere."""

from __future__ import annotations

import re

from medgen.spec import Label

MAX_LENGTH = 16
# plain English, lower case, laterality taken away -> TG-263 primary name
NAMES = {
    "adrenal gland": "Glnd_Adrenal", "air": "Air", "aorta": "A_Aorta", "bladder": "Bladder",
    "urinary bladder": "Bladder", "body": "External", "body outline": "External", "external": "External",
    "skin": "Skin", "bone": "Bone", "bones": "Bone", "bowel": "Bowel", "small bowel": "Bowel_Small",
    "small intestine": "Bowel_Small", "large bowel": "Bowel_Large", "colon": "Colon", "sigmoid": "Colon_Sigmoid",
    "duodenum": "Duodenum", "brain": "Brain", "brainstem": "Brainstem", "brain stem": "Brainstem", "breast": "Breast",
    "bronchus": "Bronchus", "carotid artery": "A_Carotid", "cauda equina": "CaudaEquina", "cerebellum": "Cerebellum",
    "cerebrum": "Cerebrum", "cochlea": "Cochlea", "cerebrospinal fluid": "CSF", "csf": "CSF",
    "esophagus": "Esophagus", "oesophagus": "Esophagus", "eye": "Eye", "lens": "Lens", "femoral head": "Femur_Head",
    "femur": "Femur", "gallbladder": "Gallbladder", "gall bladder": "Gallbladder", "heart": "Heart",
    "hippocampus": "Hippocampus", "hypothalamus": "Hypothalamus", "humerus": "Humerus",
    "inferior vena cava": "V_Venacava_I", "kidney": "Kidney", "larynx": "Larynx", "liver": "Liver", "lung": "Lung",
    "mandible": "Bone_Mandible", "optic chiasm": "OpticChiasm", "optic nerve": "OpticNrv",
    "oral cavity": "Cavity_Oral", "ovary": "Ovary", "pancreas": "Pancreas", "parotid": "Parotid",
    "parotid gland": "Parotid", "pituitary": "Pituitary", "pituitary gland": "Pituitary", "prostate": "Prostate",
    "rectum": "Rectum", "sacrum": "Sacrum", "seminal vesicles": "SeminalVes", "skull": "Skull",
    "spinal canal": "SpinalCanal", "spinal cord": "SpinalCord", "spleen": "Spleen", "stomach": "Stomach",
    "submandibular gland": "Glnd_Submand", "temporal lobe": "Lobe_Temporal", "thyroid": "Glnd_Thyroid",
    "thyroid gland": "Glnd_Thyroid", "tongue": "Tongue", "trachea": "Trachea", "uterus": "Uterus",
    "ventricle": "Ventricle", "ventricles": "Ventricles", "tumour": "GTV", "tumor": "GTV",
    "gross tumour volume": "GTV", "gross tumor volume": "GTV", "clinical target volume": "CTV",
    "planning target volume": "PTV", "thalamus": "Thalamus", "amygdala": "Amygdala", "white matter": "WhiteMatter",
    "grey matter": "GreyMatter", "gray matter": "GreyMatter", "cortex": "Cortex", "vertebra": "VB",
    "lacrimal gland": "Glnd_Lacrimal",
}  # fmt: skip
TARGETS = ("GTV", "CTV", "PTV", "ITV")


def suggest(name: str, side: str = "") -> str:
    """The TG-263 name for a plain English one ('Left kidney' -> 'Kidney_L'); one of the same form where TG-263's list
    here lacks it. side: 'left' or 'right' where the name does not say it."""
    words = re.sub(r"[_\-,()/]+", " ", name).split()
    sides = {"left": "_L", "l": "_L", "right": "_R", "r": "_R"}
    suffix = next((sides[w.lower()] for w in words if w.lower() in sides), sides.get(side.lower(), ""))
    plain = [w for w in words if w.lower() not in sides]
    base = NAMES.get(" ".join(plain).lower()) or "".join(w[:1].upper() + w[1:] for w in plain) or "Structure"
    base = re.sub(r"[^A-Za-z0-9_]", "", base) or "Structure"
    return base[: MAX_LENGTH - len(suffix)] + suffix


def suggest_all(labels: list[Label]) -> list[str]:
    """One name for each label, no two alike."""
    names: list[str] = []
    for label in labels:
        modifier = label.terminology.type_modifier if label.terminology else None
        name = suggest(label.name, modifier.meaning if modifier else "")
        stem, number = name, 2
        while name in names:
            name = f"{stem[: MAX_LENGTH - 1 - len(str(number))]}_{number}"
            number += 1
        names.append(name)
    return names


def interpreted_type(label: Label) -> str:
    """RT ROI Interpreted Type (PS3.3 C.8.8.8) from the name."""
    name = suggest(label.name)
    for target in TARGETS:
        if name.upper().startswith(target):
            return "GTV" if target == "ITV" else target
    return "EXTERNAL" if name == "External" else "CAVITY" if name == "Air" else "ORGAN"
