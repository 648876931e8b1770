"""What the eight cell classes look like under May-Grünwald-Giemsa stain: a table, no code.

Every pair is the range that one cell's value is drawn from. The ranges of neighbouring classes
overlap on purpose: an immature granulocyte may be as large as a monocyte and as bent as a band
neutrophil, a young erythroblast as blue as a lymphocyte. One value alone seldom settles the class;
all of them together nearly always do.
"""

from __future__ import annotations

from dataclasses import dataclass

Range = tuple[float, float]
Colour = tuple[int, int, int]

CLASS_NAMES: tuple[str, ...] = (
    "basophil",
    "eosinophil",
    "erythroblast",
    "ig",
    "lymphocyte",
    "monocyte",
    "neutrophil",
    "platelet",
)

CLASS_COUNTS: tuple[int, ...] = (852, 2181, 1085, 2026, 849, 993, 2330, 1643)
"""Cells of each class in the public blood-cell set whose imbalance is copied (BloodMNIST)."""


@dataclass(frozen=True)
class Look:
    """One way that a class can look. Lengths are in pixels of a 96-pixel picture, unless said."""

    kind: str
    share: float
    """Of the images of its class."""
    radius: Range
    cytoplasm: Colour
    granule: Colour
    granules: Range
    """How much of the cytoplasm they cover, 0-1."""
    lobe: Range = (0.0, 0.0)
    """Radius of a nuclear lobe / radius of the cell."""
    lobes: tuple[int, int] = (1, 1)
    length: Range = (0.0, 0.0)
    """Of the chain of lobes, from first to last centre / radius of the cell."""
    curl: Range = (0.1, 0.8)
    """By how much the chain turns, radians."""
    bridge: Range = (0.3, 0.5)
    """Half-width of the bridge between two lobes / radius of a lobe."""
    melt: Range = (1.0, 2.0)
    """How softly lobes run into each other."""
    offset: Range = (0.0, 0.15)
    """How far the nucleus lies from the middle / radius of the cell."""
    chromatin: Range = (0.25, 0.5)
    """Contrast inside the nucleus."""
    pallor: Range = (0.0, 0.2)
    """How far the nucleus is from the darkest stain."""
    opacity: Range = (0.85, 1.0)
    rim: Range = (0.0, 0.2)
    """How much darker the cytoplasm is towards its border."""
    mottle: Range = (0.1, 0.25)
    """Unevenness of the cytoplasm."""
    coarseness: Range = (0.0, 0.2)
    """Of the granules: 0 dust, 1 large grains."""
    veil: Range = (0.0, 0.0)
    """How much of the granules lies over the nucleus, 0-1."""
    cluster: Range = (0.0, 0.0)
    """How much denser the granules are in the middle of the cell."""
    vacuoles: tuple[int, int] = (0, 0)
    wobble: Range = (0.5, 1.5)
    """Unevenness of the outline, slow."""
    frill: Range = (0.1, 0.4)
    """Unevenness of the outline, fast."""


LOOKS: tuple[tuple[Look, ...], ...] = (
    (
        Look(
            kind="basophil, nucleus hidden",
            share=0.55,
            radius=(25, 34),
            cytoplasm=(146, 92, 158),
            granule=(52, 20, 104),
            granules=(0.55, 0.8),
            lobe=(0.42, 0.52),
            lobes=(2, 3),
            length=(0.4, 0.7),
            melt=(2.0, 4.0),
            coarseness=(0.2, 0.8),
            veil=(0.8, 1.0),
            chromatin=(0.3, 0.6),
            pallor=(0.55, 1.0),
            wobble=(0.6, 2.6),
            frill=(0.4, 1.0),
        ),
        Look(
            kind="basophil, nucleus seen",
            share=0.45,
            radius=(25, 37),
            cytoplasm=(176, 130, 172),
            granule=(60, 24, 110),
            granules=(0.32, 0.66),
            lobe=(0.4, 0.5),
            lobes=(2, 3),
            length=(0.5, 0.85),
            bridge=(0.4, 0.8),
            melt=(1.0, 3.0),
            coarseness=(0.2, 0.8),
            veil=(0.4, 0.8),
            pallor=(0.25, 0.6),
            wobble=(0.6, 2.6),
            frill=(0.3, 0.9),
        ),
    ),
    (
        Look(
            kind="eosinophil, two lobes",
            share=0.68,
            radius=(28, 36),
            cytoplasm=(220, 164, 160),
            granule=(180, 100, 108),
            granules=(0.45, 0.7),
            lobe=(0.36, 0.46),
            lobes=(2, 2),
            length=(0.72, 1.0),
            curl=(0.3, 2.0),
            bridge=(0.15, 0.5),
            offset=(0.1, 0.35),
            coarseness=(0.1, 0.6),
            veil=(0.0, 0.08),
            pallor=(0.05, 0.3),
        ),
        Look(
            kind="eosinophil, three lobes",
            share=0.32,
            radius=(28, 36),
            cytoplasm=(220, 164, 160),
            granule=(180, 100, 108),
            granules=(0.45, 0.7),
            lobe=(0.3, 0.38),
            lobes=(3, 4),
            length=(1.1, 1.6),
            curl=(1.2, 3.4),
            bridge=(0.15, 0.5),
            offset=(0.05, 0.3),
            coarseness=(0.1, 0.6),
            veil=(0.0, 0.08),
            pallor=(0.05, 0.3),
        ),
    ),
    (
        Look(
            kind="erythroblast, orthochromatic",
            share=0.4,
            melt=(0.4, 1.0),
            radius=(17, 24),
            cytoplasm=(182, 158, 172),
            granule=(140, 110, 150),
            granules=(0.0, 0.02),
            lobe=(0.42, 0.6),
            offset=(0.0, 0.4),
            chromatin=(0.02, 0.15),
            pallor=(-0.15, 0.0),
            opacity=(0.75, 1.0),
            mottle=(0.05, 0.2),
            wobble=(0.3, 1.6),
        ),
        Look(
            kind="erythroblast, polychromatic",
            share=0.42,
            melt=(0.4, 1.2),
            radius=(20, 29),
            cytoplasm=(152, 130, 164),
            granule=(110, 86, 140),
            granules=(0.0, 0.04),
            lobe=(0.52, 0.68),
            offset=(0.0, 0.25),
            chromatin=(0.35, 0.7),
            pallor=(-0.05, 0.15),
            rim=(0.0, 0.3),
            wobble=(0.3, 1.6),
        ),
        Look(
            kind="erythroblast, basophilic",
            share=0.18,
            melt=(0.6, 1.6),
            radius=(25, 33),
            cytoplasm=(108, 86, 152),
            granule=(74, 48, 124),
            granules=(0.0, 0.05),
            lobe=(0.66, 0.84),
            offset=(0, 0.16),
            chromatin=(0.3, 0.65),
            pallor=(0.1, 0.35),
            rim=(0.1, 0.5),
            wobble=(0.5, 2.0),
        ),
    ),
    (
        Look(
            kind="promyelocyte",
            share=0.3,
            radius=(30, 44),
            cytoplasm=(140, 112, 168),
            granule=(84, 32, 116),
            granules=(0.3, 0.64),
            lobe=(0.6, 0.72),
            lobes=(1, 2),
            length=(0.05, 0.25),
            melt=(4.0, 7.0),
            offset=(0.12, 0.35),
            chromatin=(0.3, 0.5),
            pallor=(0.3, 0.6),
            rim=(0.0, 0.3),
            coarseness=(0.2, 0.8),
            veil=(0.1, 0.5),
            wobble=(1.0, 3.5),
        ),
        Look(
            kind="myelocyte",
            share=0.4,
            radius=(27, 39),
            cytoplasm=(176, 148, 178),
            granule=(118, 60, 136),
            granules=(0.15, 0.6),
            lobe=(0.52, 0.66),
            lobes=(1, 2),
            length=(0.1, 0.35),
            melt=(3.0, 6.0),
            offset=(0.15, 0.4),
            chromatin=(0.3, 0.6),
            pallor=(0.1, 0.5),
            rim=(0.0, 0.25),
            coarseness=(0.1, 0.5),
            veil=(0.0, 0.2),
            wobble=(0.8, 3.4),
        ),
        Look(
            kind="metamyelocyte",
            share=0.3,
            radius=(28, 37),
            cytoplasm=(208, 176, 182),
            granule=(154, 98, 146),
            granules=(0.15, 0.5),
            lobe=(0.33, 0.48),
            lobes=(3, 3),
            length=(0.6, 1.15),
            curl=(1.2, 3.0),
            bridge=(0.75, 0.95),
            melt=(1.5, 3.0),
            offset=(0.1, 0.3),
            pallor=(-0.05, 0.25),
            coarseness=(0.05, 0.4),
            veil=(0.0, 0.1),
        ),
    ),
    (
        Look(
            kind="lymphocyte, small",
            share=0.7,
            radius=(20, 28),
            cytoplasm=(126, 108, 166),
            granule=(100, 60, 140),
            granules=(0.0, 0.05),
            lobe=(0.78, 0.93),
            lobes=(1, 2),
            length=(0.05, 0.25),
            melt=(2.0, 4.0),
            offset=(0.0, 0.14),
            chromatin=(0.25, 0.6),
            pallor=(0.0, 0.3),
            rim=(0.0, 0.4),
            wobble=(0.6, 2.4),
            frill=(0.1, 0.9),
        ),
        Look(
            kind="lymphocyte, large",
            share=0.3,
            mottle=(0.1, 0.35),
            radius=(25, 37),
            cytoplasm=(152, 142, 188),
            granule=(120, 60, 140),
            granules=(0, 0.3),
            lobe=(0.6, 0.76),
            lobes=(1, 2),
            length=(0.05, 0.3),
            melt=(2.0, 4.0),
            offset=(0.08, 0.3),
            chromatin=(0.25, 0.55),
            pallor=(0.1, 0.5),
            rim=(0.1, 0.6),
            wobble=(1.0, 3.6),
            frill=(0.2, 0.9),
        ),
    ),
    (
        Look(
            kind="monocyte, kidney-shaped nucleus",
            share=0.6,
            radius=(29, 43),
            cytoplasm=(158, 142, 178),
            granule=(128, 104, 156),
            granules=(0.1, 0.5),
            lobe=(0.34, 0.44),
            lobes=(3, 3),
            length=(0.8, 1.15),
            curl=(1.8, 3.6),
            bridge=(0.8, 1.0),
            melt=(1.5, 3.0),
            offset=(0.0, 0.25),
            chromatin=(0.35, 0.65),
            pallor=(0.15, 0.6),
            mottle=(0.2, 0.45),
            vacuoles=(0, 6),
            wobble=(1.2, 5.5),
            frill=(0.2, 0.8),
        ),
        Look(
            kind="monocyte, folded nucleus",
            share=0.4,
            radius=(28, 42),
            cytoplasm=(146, 130, 172),
            granule=(116, 90, 148),
            granules=(0.1, 0.5),
            lobe=(0.46, 0.58),
            lobes=(2, 2),
            length=(0.25, 0.65),
            curl=(0.1, 1.0),
            bridge=(0.6, 0.9),
            melt=(1.0, 2.5),
            offset=(0.0, 0.25),
            chromatin=(0.35, 0.65),
            pallor=(0.15, 0.6),
            mottle=(0.2, 0.45),
            vacuoles=(0, 5),
            wobble=(1.2, 5.0),
            frill=(0.2, 0.8),
        ),
    ),
    (
        Look(
            kind="neutrophil, band",
            share=0.25,
            chromatin=(0.3, 0.6),
            radius=(28, 37),
            cytoplasm=(218, 184, 184),
            granule=(182, 128, 158),
            granules=(0.2, 0.55),
            lobe=(0.25, 0.35),
            lobes=(5, 5),
            length=(1.0, 1.75),
            curl=(1.6, 3.8),
            bridge=(0.8, 1.0),
            melt=(0.8, 1.6),
            offset=(0.0, 0.2),
            pallor=(-0.05, 0.15),
            opacity=(0.75, 1.0),
        ),
        Look(
            kind="neutrophil, two or three lobes",
            share=0.4,
            chromatin=(0.3, 0.6),
            radius=(28, 37),
            cytoplasm=(224, 188, 184),
            granule=(184, 124, 152),
            granules=(0.2, 0.55),
            lobe=(0.29, 0.37),
            lobes=(2, 3),
            length=(0.75, 1.15),
            curl=(1.0, 3.2),
            bridge=(0.25, 0.7),
            offset=(0.0, 0.2),
            pallor=(-0.05, 0.15),
            opacity=(0.75, 1.0),
        ),
        Look(
            kind="neutrophil, four or five lobes",
            share=0.35,
            chromatin=(0.3, 0.6),
            radius=(28, 38),
            cytoplasm=(224, 190, 186),
            granule=(186, 126, 154),
            granules=(0.2, 0.55),
            lobe=(0.22, 0.29),
            lobes=(4, 5),
            length=(1.6, 2.3),
            curl=(2.6, 5.0),
            bridge=(0.15, 0.5),
            offset=(0.0, 0.15),
            pallor=(-0.05, 0.15),
            opacity=(0.75, 1.0),
        ),
    ),
    (
        Look(
            kind="platelet",
            share=0.8,
            radius=(8, 14),
            cytoplasm=(172, 146, 184),
            granule=(112, 58, 144),
            granules=(0.45, 0.75),
            cluster=(0.1, 0.8),
            coarseness=(0.2, 0.7),
            opacity=(0.7, 1.0),
            wobble=(0.6, 2.4),
            frill=(0.4, 1.6),
        ),
        Look(
            kind="platelet, giant",
            share=0.2,
            radius=(14, 22),
            cytoplasm=(160, 142, 182),
            granule=(120, 74, 150),
            granules=(0.4, 0.65),
            cluster=(0.0, 0.6),
            coarseness=(0.1, 0.6),
            opacity=(0.7, 1.0),
            wobble=(0.8, 3.0),
            frill=(0.4, 1.4),
        ),
    ),
)
"""In label order; the shares of each class sum to 1."""
