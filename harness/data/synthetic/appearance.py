"""The appearance of the eight cell classes under May-Grünwald-Giemsa stain: a table.

A value of each cell is drawn from each range. The ranges of similar classes overlap on purpose: an
immature granulocyte may be as large as a monocyte and its nucleus as bent as a band neutrophil's.
One value seldom determines the class; all of them together nearly always do.
"""

from __future__ import annotations

from dataclasses import dataclass

Range = tuple[float, float]
Colour = tuple[int, int, int]

CLASS_NAMES: tuple[str, ...] = (
    "basophil", "eosinophil", "erythroblast", "ig",
    "lymphocyte", "monocyte", "neutrophil", "platelet",
)  # fmt: skip

CLASS_COUNTS: tuple[int, ...] = (852, 2181, 1085, 2026, 849, 993, 2330, 1643)
"""Cells of each class in BloodMNIST, whose imbalance is copied."""


@dataclass(frozen=True)
class Appearance:
    """One appearance of a class. Lengths are in pixels of a 96-pixel image, unless a ratio."""

    name: str
    share: float
    """Fraction of the images of the class."""
    radius: Range
    cytoplasm: Colour
    granule: Colour
    granules: Range
    """Fraction of the cytoplasm that they cover."""
    lobe: Range = (0.0, 0.0)
    """Radius of a nuclear lobe / radius of the cell."""
    lobes: tuple[int, int] = (1, 1)
    length: Range = (0.0, 0.0)
    """From the first to the last lobe's centre / radius of the cell."""
    curl: Range = (0.1, 0.8)
    """Angle that the chain of lobes turns by, radians."""
    bridge: Range = (0.3, 0.5)
    """Half-width of the bridge between two lobes / radius of a lobe."""
    melt: Range = (1.0, 2.0)
    """Softness of the transition between lobes."""
    offset: Range = (0.0, 0.15)
    """Distance of the nucleus from the cell's centre / radius of the cell."""
    chromatin: Range = (0.25, 0.5)
    """Contrast inside the nucleus."""
    pallor: Range = (0.0, 0.2)
    """Lightness of the nucleus: 0 is its dark stain, 1 its light one."""
    opacity: Range = (0.85, 1.0)
    rim: Range = (0.0, 0.2)
    """Darkening of the cytoplasm towards its border."""
    mottle: Range = (0.1, 0.25)
    """Unevenness of the cytoplasm."""
    coarseness: Range = (0.0, 0.2)
    """Size of the granules: 0 fine, 1 coarse."""
    veil: Range = (0.0, 0.0)
    """Opacity of the granules over the nucleus."""
    cluster: Range = (0.0, 0.0)
    """How much denser the granules are at the centre of the cell."""
    vacuoles: tuple[int, int] = (0, 0)
    wobble: Range = (0.5, 1.5)
    """Low-frequency unevenness of the outline."""
    frill: Range = (0.1, 0.4)
    """High-frequency unevenness of the outline."""


# fmt: off
APPEARANCES: tuple[tuple[Appearance, ...], ...] = (
    (
        Appearance("basophil, nucleus hidden", 0.55, radius=(25, 34), cytoplasm=(146, 92, 158),
            granule=(52, 20, 104), granules=(0.55, 0.8), lobe=(0.42, 0.52), lobes=(2, 3),
            length=(0.4, 0.7), melt=(2, 4), chromatin=(0.3, 0.6), pallor=(0.55, 1),
            coarseness=(0.2, 0.8), veil=(0.8, 1), wobble=(0.6, 2.6), frill=(0.4, 1)),
        Appearance("basophil, nucleus seen", 0.45, radius=(25, 37), cytoplasm=(176, 130, 172),
            granule=(60, 24, 110), granules=(0.32, 0.66), lobe=(0.4, 0.5), lobes=(2, 3),
            length=(0.5, 0.85), bridge=(0.4, 0.8), melt=(1, 3), pallor=(0.25, 0.6),
            coarseness=(0.2, 0.8), veil=(0.4, 0.8), wobble=(0.6, 2.6), frill=(0.3, 0.9)),
    ),
    (
        Appearance("eosinophil, two lobes", 0.68, radius=(28, 36), cytoplasm=(220, 164, 160),
            granule=(180, 100, 108), granules=(0.45, 0.7), lobe=(0.36, 0.46), lobes=(2, 2),
            length=(0.72, 1), curl=(0.3, 2), bridge=(0.15, 0.5), offset=(0.1, 0.35),
            pallor=(0.05, 0.3), coarseness=(0.1, 0.6), veil=(0, 0.08)),
        Appearance("eosinophil, three lobes", 0.32, radius=(28, 36), cytoplasm=(220, 164, 160),
            granule=(180, 100, 108), granules=(0.45, 0.7), lobe=(0.3, 0.38), lobes=(3, 4),
            length=(1.1, 1.6), curl=(1.2, 3.4), bridge=(0.15, 0.5), offset=(0.05, 0.3),
            pallor=(0.05, 0.3), coarseness=(0.1, 0.6), veil=(0, 0.08)),
    ),
    (
        Appearance("erythroblast, orthochromatic", 0.4, radius=(17, 24), cytoplasm=(182, 158, 172),
            granule=(140, 110, 150), granules=(0, 0.02), lobe=(0.42, 0.6), melt=(0.4, 1),
            offset=(0, 0.4), chromatin=(0.02, 0.15), pallor=(-0.15, 0), opacity=(0.75, 1),
            mottle=(0.05, 0.2), wobble=(0.3, 1.6)),
        Appearance("erythroblast, polychromatic", 0.42, radius=(20, 29), cytoplasm=(152, 130, 164),
            granule=(110, 86, 140), granules=(0, 0.04), lobe=(0.52, 0.68), melt=(0.4, 1.2),
            offset=(0, 0.25), chromatin=(0.35, 0.7), pallor=(-0.05, 0.15), rim=(0, 0.3),
            wobble=(0.3, 1.6)),
        Appearance("erythroblast, basophilic", 0.18, radius=(25, 33), cytoplasm=(108, 86, 152),
            granule=(74, 48, 124), granules=(0, 0.05), lobe=(0.66, 0.84), melt=(0.6, 1.6),
            offset=(0, 0.16), chromatin=(0.3, 0.65), pallor=(0.1, 0.35), rim=(0.1, 0.5),
            wobble=(0.5, 2)),
    ),
    (
        Appearance("promyelocyte", 0.3, radius=(30, 44), cytoplasm=(140, 112, 168),
            granule=(84, 32, 116), granules=(0.3, 0.64), lobe=(0.6, 0.72), lobes=(1, 2),
            length=(0.05, 0.25), melt=(4, 7), offset=(0.12, 0.35), chromatin=(0.3, 0.5),
            pallor=(0.3, 0.6), rim=(0, 0.3), coarseness=(0.2, 0.8), veil=(0.1, 0.5),
            wobble=(1, 3.5)),
        Appearance("myelocyte", 0.4, radius=(27, 39), cytoplasm=(176, 148, 178),
            granule=(118, 60, 136), granules=(0.15, 0.6), lobe=(0.52, 0.66), lobes=(1, 2),
            length=(0.1, 0.35), melt=(3, 6), offset=(0.15, 0.4), chromatin=(0.3, 0.6),
            pallor=(0.1, 0.5), rim=(0, 0.25), coarseness=(0.1, 0.5), veil=(0, 0.2),
            wobble=(0.8, 3.4)),
        Appearance("metamyelocyte", 0.3, radius=(28, 37), cytoplasm=(208, 176, 182),
            granule=(154, 98, 146), granules=(0.15, 0.5), lobe=(0.33, 0.48), lobes=(3, 3),
            length=(0.6, 1.15), curl=(1.2, 3), bridge=(0.75, 0.95), melt=(1.5, 3),
            offset=(0.1, 0.3), pallor=(-0.05, 0.25), coarseness=(0.05, 0.4), veil=(0, 0.1)),
    ),
    (
        Appearance("lymphocyte, small", 0.7, radius=(20, 28), cytoplasm=(126, 108, 166),
            granule=(100, 60, 140), granules=(0, 0.05), lobe=(0.78, 0.93), lobes=(1, 2),
            length=(0.05, 0.25), melt=(2, 4), offset=(0, 0.14), chromatin=(0.25, 0.6),
            pallor=(0, 0.3), rim=(0, 0.4), wobble=(0.6, 2.4), frill=(0.1, 0.9)),
        Appearance("lymphocyte, large", 0.3, radius=(25, 37), cytoplasm=(152, 142, 188),
            granule=(120, 60, 140), granules=(0, 0.3), lobe=(0.6, 0.76), lobes=(1, 2),
            length=(0.05, 0.3), melt=(2, 4), offset=(0.08, 0.3), chromatin=(0.25, 0.55),
            pallor=(0.1, 0.5), rim=(0.1, 0.6), mottle=(0.1, 0.35), wobble=(1, 3.6),
            frill=(0.2, 0.9)),
    ),
    (
        Appearance("monocyte, kidney-shaped nucleus", 0.6, radius=(29, 43),
            cytoplasm=(158, 142, 178), granule=(128, 104, 156), granules=(0.1, 0.5),
            lobe=(0.34, 0.44), lobes=(3, 3), length=(0.8, 1.15), curl=(1.8, 3.6), bridge=(0.8, 1),
            melt=(1.5, 3), offset=(0, 0.25), chromatin=(0.35, 0.65), pallor=(0.15, 0.6),
            mottle=(0.2, 0.45), vacuoles=(0, 6), wobble=(1.2, 5.5), frill=(0.2, 0.8)),
        Appearance("monocyte, folded nucleus", 0.4, radius=(28, 42), cytoplasm=(146, 130, 172),
            granule=(116, 90, 148), granules=(0.1, 0.5), lobe=(0.46, 0.58), lobes=(2, 2),
            length=(0.25, 0.65), curl=(0.1, 1), bridge=(0.6, 0.9), melt=(1, 2.5), offset=(0, 0.25),
            chromatin=(0.35, 0.65), pallor=(0.15, 0.6), mottle=(0.2, 0.45), vacuoles=(0, 5),
            wobble=(1.2, 5), frill=(0.2, 0.8)),
    ),
    (
        Appearance("neutrophil, band", 0.25, radius=(28, 37), cytoplasm=(218, 184, 184),
            granule=(182, 128, 158), granules=(0.2, 0.55), lobe=(0.25, 0.35), lobes=(5, 5),
            length=(1, 1.75), curl=(1.6, 3.8), bridge=(0.8, 1), melt=(0.8, 1.6), offset=(0, 0.2),
            chromatin=(0.3, 0.6), pallor=(-0.05, 0.15), opacity=(0.75, 1)),
        Appearance("neutrophil, two or three lobes", 0.4, radius=(28, 37),
            cytoplasm=(224, 188, 184), granule=(184, 124, 152), granules=(0.2, 0.55),
            lobe=(0.29, 0.37), lobes=(2, 3), length=(0.75, 1.15), curl=(1, 3.2), bridge=(0.25, 0.7),
            offset=(0, 0.2), chromatin=(0.3, 0.6), pallor=(-0.05, 0.15), opacity=(0.75, 1)),
        Appearance("neutrophil, four or five lobes", 0.35, radius=(28, 38),
            cytoplasm=(224, 190, 186), granule=(186, 126, 154), granules=(0.2, 0.55),
            lobe=(0.22, 0.29), lobes=(4, 5), length=(1.6, 2.3), curl=(2.6, 5), bridge=(0.15, 0.5),
            chromatin=(0.3, 0.6), pallor=(-0.05, 0.15), opacity=(0.75, 1)),
    ),
    (
        Appearance("platelet", 0.8, radius=(8, 14), cytoplasm=(172, 146, 184),
            granule=(112, 58, 144), granules=(0.45, 0.75), opacity=(0.7, 1), coarseness=(0.2, 0.7),
            cluster=(0.1, 0.8), wobble=(0.6, 2.4), frill=(0.4, 1.6)),
        Appearance("platelet, giant", 0.2, radius=(14, 22), cytoplasm=(160, 142, 182),
            granule=(120, 74, 150), granules=(0.4, 0.65), opacity=(0.7, 1), coarseness=(0.1, 0.6),
            cluster=(0, 0.6), wobble=(0.8, 3), frill=(0.4, 1.4)),
    ),
)
# fmt: on
"""By label; the shares of each class sum to 1."""
