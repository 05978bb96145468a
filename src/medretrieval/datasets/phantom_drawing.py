"""How a frontal chest radiograph is drawn: a patient is sampled, posed, given a finding and exposed.

Geometry lives in body coordinates, lengths in half image widths: u runs from -1 (the image's left,
which is the patient's RIGHT, as on a light box) to +1, v from -1 (top) to +1. a = |u| is the
distance from the midline. Density is unitless, 0 for air around the patient, about 1 for bone.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASSES = ("clear", "focal opacity", "diffuse opacity", "effusion", "cardiomegaly")
CLEAR, FOCAL, DIFFUSE, EFFUSION, CARDIOMEGALY = range(len(CLASSES))

# float32 [height, width], or what broadcasts to it (NumPy's stubs take arithmetic with a float for float64).
Field = NDArray[np.floating[Any]]

# Ribs alias below this size, so smaller images are drawn larger and averaged down.
_MIN_DRAWN = 64
_ZONE_V = (-0.40, -0.04, 0.30)
_ZONE_A = (0.42, 0.52, 0.56)
_GLYPHS = {
    "R": np.array([[1, 1, 0], [1, 0, 1], [1, 1, 0], [1, 0, 1], [1, 0, 1]], bool),
    "L": np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1]], bool),
}


@dataclass(frozen=True)
class Patient:
    """All that is sampled for one image, whatever its class: the class only selects the finding.

    Lengths are in half image widths, angles in radians, densities unitless.
    """

    # pose
    turn: float
    shift_x: float
    shift_y: float
    zoom: float
    keystone: float
    # anatomy
    lung_width: float
    apex: float
    domes: tuple[float, float]
    heart: tuple[float, float, float, float]  # center u, v and radii
    mediastinum: float
    rib_rate: float
    rib_phase: float
    rib_density: float
    clavicle: tuple[float, float]  # height at the midline and slope
    vessels: tuple[float, float, float]  # density and a phase a side
    breast: tuple[float, float]  # density and height
    bubble: float
    # finding
    side: int
    zone: int
    grade: int  # 0 small, 1 moderate, 2 large
    bilateral: bool
    reticular: bool
    spot: tuple[float, float]  # distance from the midline and height
    lobes: tuple[float, float]
    texture_waves: NDArray[np.float64]  # [waves, 3]: rates along x and y, phase
    # exposure, detector and what lies on the patient
    haze_waves: NDArray[np.float64]  # [waves, 3]
    haze: float
    slope: tuple[float, float]
    level: float
    window: float
    gamma: float
    blur: float
    noise: float
    marker: tuple[float, float, float]  # > 0 when present (else none), then x and y
    tube: tuple[float, float, float, float]  # > 0 when present, start x, drift, bend
    phrase: int


def _waves(rng: np.random.Generator, count: int, slow: float, fast: float) -> NDArray[np.float64]:
    """Random plane waves, rates in cycles over half an image width: float64 [count, 3]."""
    rate, angle, phase = rng.uniform(0, 1, (3, count))
    rate = 2 * math.pi * (slow + (fast - slow) * rate)
    angle = 2 * math.pi * angle
    return np.stack([rate * np.cos(angle), rate * np.sin(angle), 2 * math.pi * phase], axis=1)


def sample(rng: np.random.Generator, difficulty: float) -> Patient:
    """Sample a patient; the draws are the same at every difficulty, only their spread changes.

    Args:
        rng: makes all the choices.
        difficulty: 0 (patients nearly alike) to 1.
    """
    spread = 0.06 + 0.94 * difficulty

    def vary(center: float, width: float) -> float:
        return center + width * spread * rng.uniform(-1.0, 1.0)

    side, zone = 2 * int(rng.integers(2)) - 1, int(rng.integers(3))
    return Patient(
        turn=vary(0, 0.20),
        shift_x=vary(0, 0.20),
        shift_y=vary(0, 0.20),
        zoom=vary(0.98, 0.18),
        keystone=vary(0, 0.12),
        lung_width=vary(0.40, 0.05),
        apex=vary(0.98, 0.08),
        domes=(vary(0.47, 0.12), vary(0.53, 0.12)),
        heart=(vary(0.11, 0.05), vary(0.34, 0.05), vary(0.33, 0.06), vary(0.31, 0.04)),
        mediastinum=vary(0.14, 0.04),
        rib_rate=vary(4.9, 0.7),
        rib_phase=vary(0.3, 0.5),
        rib_density=vary(0.075, 0.04),
        clavicle=(vary(-0.60, 0.07), vary(0.22, 0.15)),
        vessels=(vary(0.11, 0.06), vary(0, math.pi), vary(1, math.pi)),
        breast=(max(vary(0.0, 0.10), 0.0), vary(0.35, 0.12)),
        bubble=vary(0.10, 0.10),
        side=side,
        zone=zone,
        grade=int(rng.integers(3)),
        bilateral=rng.random() < 0.7,
        reticular=rng.random() < 0.5,
        spot=(vary(_ZONE_A[zone], 0.09), vary(_ZONE_V[zone], 0.11)),
        lobes=(vary(0, math.pi), vary(1, math.pi)),
        texture_waves=_waves(rng, 8, 3.5, 6.0),
        haze_waves=_waves(rng, 5, 0.2, 1.2),
        haze=0.03 * spread * rng.random(),
        slope=(vary(0, 0.10), vary(0, 0.10)),
        level=vary(0.0, 0.10),
        window=vary(1.0, 0.22),
        gamma=vary(1.0, 0.30),
        blur=vary(0.08, 0.08),
        noise=0.004 + 0.014 * spread * rng.random(),
        marker=(
            spread - rng.random(),
            vary(0.78, 0.08) * (1 if rng.random() < 0.5 else -1),
            vary(-0.80, 0.10),
        ),
        tube=(0.35 * spread - rng.random(), vary(0, 0.5), vary(0, 0.4), vary(0, 0.3)),
        phrase=int(rng.integers(4)),
    )


def _step(distance: Field, softness: float) -> Field:
    """0 outside (distance < 0) to 1 inside, a linear ramp of the width ``softness``."""
    return np.minimum(np.maximum(distance * (1.0 / softness) + 0.5, 0.0), 1.0)


def _ellipse(u: Field, v: Field, center: tuple[float, float], radii: tuple[float, float]) -> Field:
    """About the distance to an ellipse's edge, positive inside."""
    q = ((u - center[0]) * (1.0 / radii[0])) ** 2 + ((v - center[1]) * (1.0 / radii[1])) ** 2
    return (1.0 - q) * (0.5 * min(radii))


def _wave_field(waves: NDArray[np.float64], axis: NDArray[np.float64]) -> Field:
    """Sum of plane waves over the image, of unit variance: float32 [height, width].

    cos(kx + ly + p) is a sum of two outer products, so the whole field is one matrix product.
    """
    columns = np.outer(waves[:, 0], axis) + waves[:, 2:]
    rows = np.outer(axis, waves[:, 1])
    left = np.concatenate([np.cos(rows), -np.sin(rows)], axis=1).astype(np.float32)
    right = np.concatenate([np.cos(columns), np.sin(columns)]).astype(np.float32)
    return left @ right * np.float32(math.sqrt(2.0 / len(waves)))


def _body_axes(p: Patient, axis: NDArray[np.float64]) -> tuple[Field, Field]:
    """Body coordinates u and v of every pixel of a posed patient: float32 [height, width] each."""
    x, y = axis[None, :] - p.shift_x, axis[:, None] - p.shift_y
    cos, sin = math.cos(p.turn) / p.zoom, math.sin(p.turn) / p.zoom
    v = (-sin * x + cos * y).astype(np.float32)
    u = (cos * x + sin * y).astype(np.float32) * (1.0 + p.keystone * v)
    return u, v


@dataclass(frozen=True)
class _Chest:
    """The parts of a drawn chest that findings refer to, each float32 [height, width] in [0, 1]."""

    u: Field
    v: Field
    a: Field
    lungs: Field  # both, heart and mediastinum in front of them included
    heart: Field
    mediastinum: Field


def _chest(p: Patient, axis: NDArray[np.float64], enlarged: float) -> _Chest:
    """Lay out lungs, heart and mediastinum; ``enlarged`` is the factor on the heart's radii."""
    u, v = _body_axes(p, axis)
    a = np.abs(u)
    right, left = p.domes
    dome = np.where(u < 0, np.float32(right), np.float32(left)) + 2.1 * (a - 0.36) ** 2
    field = _ellipse(a, v, (0.41, 0.20), (p.lung_width, p.apex))
    lungs = _step(np.minimum(field, 0.7 * (dome - v)), 0.05)
    x, y, width, height = p.heart
    # An enlarged heart grows to the left and downwards, its right border moves least.
    x, y = x + 0.12 * (enlarged - 1), y + 0.04 * (enlarged - 1)
    tipped = v - 0.35 * (u - x)
    heart = _step(_ellipse(u, tipped, (x, y), (width * enlarged, height * enlarged)), 0.05)
    knob = _ellipse(u, v, (0.11, -0.30), (0.13, 0.13))
    middle = _step(np.maximum(p.mediastinum + 0.04 * v * v - a, knob), 0.06)
    return _Chest(u, v, a, lungs, heart, middle)


def _bones(p: Patient, c: _Chest) -> Field:
    """Density of ribs, clavicles and spine."""
    turn = 2 * math.pi * p.rib_rate
    a2 = c.a * c.a
    cage = _step(_ellipse(c.a, c.v, (0.36, 0.25), (p.lung_width + 0.12, p.apex + 0.08)), 0.08)
    posterior = np.maximum(np.cos(turn * (c.v - 0.50 * a2) + p.rib_phase) + 0.1, 0.0)
    anterior = np.maximum(np.cos(turn * (c.v + 0.80 * c.a) + 2 * p.rib_phase) - 0.2, 0.0)
    height, slope = p.clavicle
    line = np.abs(c.v - height + slope * c.a + 0.10 * np.sin(6.0 * c.a))
    clavicle = _step(np.minimum(0.035 - line, 0.9 - c.a), 0.03)
    vertebrae = _step(0.085 - c.a, 0.04) * (1.0 + 0.35 * np.cos(1.6 * turn * c.v))
    bones: Field = cage * (posterior + 0.7 * anterior) * p.rib_density + 0.14 * clavicle + 0.07 * vertebrae
    return bones


def _vessels(p: Patient, c: _Chest) -> Field:
    """Density of the hila and of the vessels that fan out from them."""
    density, right, left = p.vessels
    x, y = c.a - 0.20, c.v - 0.02
    r2 = x * x + y * y
    angle = (
        np.arctan2(y, x) * 9.0 + 7.0 * np.sqrt(r2) + np.where(c.u < 0, np.float32(right), np.float32(left))
    )
    fan = np.maximum(np.cos(angle) - 0.1, 0.0)
    return density * (fan + 10.0 * np.maximum(0.06 - r2, 0.0) * 1.6) / (1.0 + 9.0 * r2)


def _finding(p: Patient, c: _Chest, label: int) -> Field:
    """Where and how much (0 to 1) a finding is, whatever its conspicuity: float32 [height, width]."""
    if label == FOCAL:
        a, v = p.spot
        x, y = c.u - a * p.side, c.v - v
        angle = np.arctan2(y, x)
        radius = 0.145 + 0.025 * p.grade
        edge = radius * (1.0 + 0.10 * np.sin(3 * angle + p.lobes[0]) + 0.07 * np.sin(5 * angle + p.lobes[1]))
        return _step(edge - np.sqrt(x * x + y * y), 0.05) * (c.lungs > 0.5)
    if label == DIFFUSE:
        return (1.0 - c.mediastinum) * c.lungs * (p.bilateral | (c.u * float(p.side) > 0))
    if label == EFFUSION:
        # The meniscus: fluid climbs along the chest wall.
        surface = 0.46 - 0.20 * p.grade - 0.9 * np.maximum(c.a - 0.45, 0.0) ** 1.5
        return (c.u * float(p.side) > 0) * _step(c.v - surface, 0.05) * (1.0 - c.mediastinum)
    return c.heart if label == CARDIOMEGALY else np.zeros_like(c.v)


def _enlargement(p: Patient, label: int, conspicuity: float) -> float:
    """Factor on the heart's radii."""
    return 1.0 + conspicuity * (0.30 + 0.10 * p.grade) if label == CARDIOMEGALY else 1.0


def _density(p: Patient, axis: NDArray[np.float64], label: int, conspicuity: float) -> tuple[Field, Field]:
    """Draw anatomy and finding: density and where the finding is, float32 [height, width] both."""
    c = _chest(p, axis, _enlargement(p, label, conspicuity))
    where = _finding(p, c, label)
    shoulders = np.maximum(c.v + 1.02 - 0.42 * c.a, 0.32 - c.a)
    body = _step(np.minimum(shoulders, 1.0 - c.a), 0.08)
    air = c.lungs * (1.0 - 0.85 * c.heart) * (1.0 - 0.95 * c.mediastinum)
    density = (0.62 + 0.10 * c.mediastinum + 0.10 * _step(c.v - 0.55, 0.5)) * body
    density += _bones(p, c) + _vessels(p, c) * air
    density += p.breast[0] * _step(_ellipse(c.a, c.v, (0.45, p.breast[1]), (0.42, 0.36)), 0.2)
    density -= p.bubble * _step(_ellipse(c.u, c.v, (0.38, p.domes[1] + 0.20), (0.16, 0.10)), 0.06)
    density -= 0.10 * _step(np.minimum(0.045 - c.a, -0.28 - c.v), 0.04)
    if label == EFFUSION:
        air, where = air * (1.0 - conspicuity * where), where * c.lungs
    density -= 0.44 * air
    if label == FOCAL:
        density += (0.40 * conspicuity) * where
    elif label == DIFFUSE:
        density += conspicuity * air * where * _texture(p, axis)
    return density, where


def _texture(p: Patient, axis: NDArray[np.float64]) -> Field:
    """Density of diffuse disease: a net of fine lines, or ground glass in patches."""
    field = _wave_field(p.texture_waves, axis)
    if p.reticular:
        return 0.08 + 0.42 * np.maximum(1.0 - 1.6 * np.abs(field), 0.0)
    return 0.22 + 0.08 * field


def _expose(p: Patient, density: Field, axis: NDArray[np.float64]) -> Field:
    """What lies on the patient, then the tube's settings: gray values in [0, 1]."""
    x, y = axis.astype(np.float32)[None, :], axis.astype(np.float32)[:, None]
    density = density + p.haze * _wave_field(p.haze_waves, axis) * (density > 0.2)
    if p.tube[0] > 0:
        _, start, drift, bend = p.tube
        line = np.abs(x - (start + drift * y + bend * y * y))
        density += 0.16 * _step(np.minimum(0.018 - line, 0.45 - y), 0.03)
    _mark(p, density, axis)
    gray = 0.5 + p.window * (density - 0.47 + p.level) + p.slope[0] * x + p.slope[1] * y
    gray = np.minimum(np.maximum(gray, 0.0), 1.0)
    return gray**p.gamma


def _mark(p: Patient, density: Field, axis: NDArray[np.float64]) -> None:
    """Print the lead letter of the side into a corner of the density, in place."""
    present, x, y = p.marker
    if present <= 0:
        return
    glyph = _GLYPHS["R" if x < 0 else "L"]
    pixel = 0.042
    rows, columns = np.floor((axis - y) / pixel).astype(int), np.floor((axis - x) / pixel).astype(int)
    rows_in = (rows >= 0) & (rows < glyph.shape[0])
    columns_in = (columns >= 0) & (columns < glyph.shape[1])
    lead = glyph[np.ix_(rows[rows_in], columns[columns_in])]
    density[np.ix_(rows_in, columns_in)] += 0.7 * lead


def _blur(gray: Field, weight: float) -> Field:
    """Spread every pixel to its neighbors, about the same length at every resolution."""
    step = 1
    while step * _MIN_DRAWN <= len(gray):
        for _ in range(2):
            near = np.concatenate([gray[:step], gray[:-step]]) + np.concatenate([gray[step:], gray[-step:]])
            gray = ((1.0 - 2.0 * weight) * gray + weight * near).T
        step *= 2
    return gray


def _shrink(field: Field, factor: int) -> Field:
    """Average blocks of factor x factor pixels."""
    size = len(field) // factor
    blocks = field.reshape(size, factor, size, factor)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def radiograph(
    p: Patient, label: int, size: int, difficulty: float, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw a patient with a finding.

    Args:
        p: the patient.
        label: class number; CLEAR for no finding.
        size: height and width in pixels.
        difficulty: 0 (the finding is plain) to 1 (it cannot be seen).
        rng: makes the noise.

    Returns:
        image uint8 [size, size], and where the finding is, bool [size, size].
    """
    factor = -(-_MIN_DRAWN // size)
    drawn = size * factor
    axis = (2.0 * np.arange(drawn) + 1.0) / drawn - 1.0
    density, where = _density(p, axis, label, conspicuity=1.0 - difficulty**2.5)
    gray = _shrink(_blur(_expose(p, density, axis), p.blur), factor)
    noise = rng.standard_normal(gray.shape, np.float32)
    # Fewer quanta reach the detector behind dense tissue, which is drawn bright.
    gray = 255.0 * (gray + p.noise * (0.5 + gray) * noise) + 0.5
    image = np.minimum(np.maximum(gray, 0.0), 255.0).astype(np.uint8)
    return image, _shrink(where, factor) > 0.3
