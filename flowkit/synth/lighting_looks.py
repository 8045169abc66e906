"""What light and camera each picture of a batch gets: the settings, and the numbers drawn from them.

All numbers are drawn on the CPU, a few hundred a picture, so that which pictures need an effect is known without waiting for
a CUDA device, and moved there together.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from flowkit.synth.random import Random

SHADOWS, SIDES, LAMPS = 2, 4, 3
"""Shadows a picture has, half planes that bound one, lamps a picture has."""


@dataclass(frozen=True)
class LightingSettings:
    """How far each effect goes at strength 1; all shrink with the strength, to nothing at 0. Probabilities are per picture."""

    same_light: float = 0.3
    """Share of the pairs whose pictures have the same exposure, colours, haze and camera; shadows and lamps differ anyway."""
    common: float = 0.4
    """How much of exposure, colours and the like the pictures of the other pairs have in common, 0..1."""
    exposure: float = 2.5
    """Up to this many stops (factors of two of linear light) more or less."""
    darkest: float = 0.03
    brightest: float = 0.5
    """The exposure is held back so that a picture's mean linear light stays in this range, as automatic exposure does."""
    gamma: float = 0.6
    """The exponent on displayed values is 2^U(+-this)."""
    contrast: float = 0.7
    """Distances from the mean are multiplied by 2^U(+-this)."""
    saturation: float = 1.6
    """Distances from grey are multiplied by 2^U(-this, this / 3): paler more often than gaudier."""
    temperature: float = 1.0
    """Stops between red and blue."""
    tint: float = 0.35
    """Stops of green."""
    hue: float = 0.08
    """Up to this share of a turn of the colour circle."""
    unevenness: float = 0.8
    """Stops by which the light varies smoothly over the picture."""
    vignette: float = 1.0
    """cos^4 law: corners get 1 / (1 + U(0, this))^2 of the light."""
    vignette_probability: float = 0.5
    haze: float = 1.0
    """Optical depth of the haze at the picture's median distance, at most."""
    haze_probability: float = 0.25
    shadow: float = 0.85
    """Share of the light a shadow takes away, at most."""
    shadow_probability: float = 0.6
    lamp: float = 2.0
    """Light of a lamp or light cone in units of daylight, at most."""
    lamp_probability: float = 0.35
    """At night always."""
    night: float = 5.0
    """Stops by which night is darker than day, at most; lamps and the exposure make up for some of it."""
    night_probability: float = 0.4
    """At strength 1; below a strength of 0.3 there is no night."""
    noise: float = 0.007
    """Variance of the noise per unit of linear light in a picture of usual brightness, at most; darker ones have less, night
    ones up to twice as much. The read noise goes with its square root."""
    noise_probability: float = 0.5
    blur: float = 1.6
    """Radius of the disc of defocus in pixels, at most."""
    motion: float = 5.0
    """Length of motion blur in pixels, at most."""
    blur_probability: float = 0.25
    jpeg: float = 75.0
    """JPEG quality is at least 100 less this."""
    jpeg_probability: float = 0.35
    erase: float = 0.0
    """Share of the pairs with one or two rectangles of image1 erased, whatever the strength (RAFT: 0.5)."""


@dataclass(frozen=True)
class Looks:
    """Numbers of N pictures by name, every tensor with N first, and which pictures have an effect (kept on the CPU)."""

    values: dict[str, Tensor]
    on: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    def at(self, part: slice) -> Looks:
        """Those of some pictures."""
        return Looks(*({name: value[part] for name, value in d.items()} for d in (self.values, self.on)))

    def to(self, device: torch.device) -> Looks:
        """On another device, in one transfer."""
        if device.type == "cpu":
            return self
        table = torch.cat([value.flatten(1) for value in self.values.values()], 1).to(device)
        columns = table.split([value[0].numel() for value in self.values.values()], 1)
        pairs = zip(self.values.items(), columns, strict=True)
        return Looks({name: column.reshape(value.shape) for (name, value), column in pairs}, self.on)

    def where(self, effect: str) -> Tensor:
        """The indices of the pictures that have an effect, on the device of the numbers."""
        return self.on[effect].nonzero()[:, 0].to(self.values["exposure"].device, non_blocking=True)


CAMERA = (
    *("exposure", "gamma", "contrast", "saturation", "temperature", "tint", "hue", "vignette", "haze", "air"),
    *("noise", "defocus", "motion", "angle", "jpeg"),
    *("vignette_on", "haze_on", "noise_on", "blur_on", "motion_on", "jpeg_on"),
)
"""What the pictures of a pair may have in common."""
SCENE = ("night", "night_colour", "night_on", "shadow_on", "lamp_on")
"""What each picture has of its own."""


def draw_looks(strength: Tensor, draw: Random, settings: LightingSettings) -> Looks:
    """The looks of 2 B pictures, first the B image0, then the B image1; strength (B,) in [0, 1] on the CPU."""
    pairs = len(strength)
    own = draw.uniform(2, pairs, len(CAMERA))
    both = draw.uniform(1, pairs, len(CAMERA))
    same = draw.uniform(1, pairs, 1) < settings.same_light
    taken = same | (draw.uniform(1, pairs, len(CAMERA)) < settings.common)
    u = dict(zip(CAMERA, torch.where(taken, both, own).flatten(0, 1).unbind(-1), strict=True))
    u |= dict(zip(SCENE, draw.uniform(2 * pairs, len(SCENE)).unbind(-1), strict=True))
    s = strength.repeat(2)
    dusk = ((s - 0.3) / 0.7).clamp_min(0)
    is_night = u["night_on"] < settings.night_probability * dusk
    night = torch.where(is_night, dusk * (0.4 + 0.6 * u["night"]), 0)
    often = s * (2 - s)
    lit = (u["lamp_on"] < settings.lamp_probability * often) | is_night
    on = {
        "vignette": u["vignette_on"] < settings.vignette_probability,
        "haze": u["haze_on"] < settings.haze_probability,
        "noise": u["noise_on"] < settings.noise_probability,
        "blur": u["blur_on"] < settings.blur_probability,
        "jpeg": u["jpeg_on"] < settings.jpeg_probability,
        "shadow": u["shadow_on"] < settings.shadow_probability * often,
        "lamp": lit,
    }
    values = _camera(u, s, night, settings)
    values |= _weather(u, s, night, settings, draw)
    values |= _shadows(s, night, settings, draw)
    values |= _lamps(s, night, values["balance"], settings, draw)
    values["unchanged"] = (s == 0).float()
    return Looks(values, {name: value & (s > 0) for name, value in on.items()} | {"unchanged": s == 0})


def _camera(u: dict[str, Tensor], s: Tensor, night: Tensor, settings: LightingSettings) -> dict[str, Tensor]:
    """Exposure in stops, colour gains, tone and the faults of lens and sensor."""

    def either_way(name: str, most: float) -> Tensor:
        return (2 * u[name] - 1) * s * most

    temperature, tint = either_way("temperature", settings.temperature), either_way("tint", settings.tint)
    balance = torch.stack([temperature / 2 - tint / 2, tint, -temperature / 2 - tint / 2], -1).exp2()
    shot = s * settings.noise * torch.exp(-5 * u["noise"]) * (1 + night)
    moving = u["motion_on"] < 0.5
    return {
        "exposure": either_way("exposure", settings.exposure) + 0.4 * settings.night * night,
        "gamma": either_way("gamma", settings.gamma).exp2(),
        "contrast": (either_way("contrast", settings.contrast) + 0.2 * night).exp2(),
        "saturation": (s * settings.saturation * (4 / 3 * u["saturation"] - 1) - 0.4 * night).exp2(),
        "hue": either_way("hue", settings.hue),
        "balance": balance,
        "vignette": s * settings.vignette * u["vignette"],
        "shot": shot,
        "read": 0.03 * shot.sqrt(),
        "defocus": s * settings.blur * u["defocus"],
        "motion": torch.where(moving, s * settings.motion * u["motion"], 0),
        "angle": pi * u["angle"],
        "quality": (100 - s * settings.jpeg * u["jpeg"]).clamp_min(1),
    }


def _weather(
    u: dict[str, Tensor], s: Tensor, night: Tensor, settings: LightingSettings, draw: Random
) -> dict[str, Tensor]:
    """Daylight (N, 3), its unevenness, and the haze."""
    count = len(s)
    stops = settings.night * night
    # Dusk is blue, the sky over a town at night may be reddish.
    shift = night * (1.2 * u["night_colour"] - 0.4)
    colour = torch.stack([-shift, torch.zeros_like(shift), shift], -1)
    daylight = (colour - stops[:, None]).exp2()
    knots = 2 * draw.uniform(count, 5, 6) - 1
    rising = draw.uniform(count, 1, 1) * torch.linspace(1, -1, 4)[None, :, None]
    far = (1 + 0.9 * rising + 0.3 * (2 * draw.uniform(count, 4, 4) - 1)).clamp_min(0.05)
    white = torch.tensor([0.94, 1.0, 1.06]) * (0.5 + u["air"])[:, None]
    return {
        "daylight": daylight,
        "unevenness": knots * (s * settings.unevenness * 0.7)[:, None, None],
        "haze": s * settings.haze * u["haze"],
        "far": far,
        "air": white,
    }


def _shadows(s: Tensor, night: Tensor, settings: LightingSettings, draw: Random) -> dict[str, Tensor]:
    """What `lighting_fields.shadow` wants, for SHADOWS shapes of each picture."""
    shape = (len(s), SHADOWS)
    turn, centre_x, centre_y, straight, wobble, soft, dark, second = draw.uniform(*shape, 8).unbind(-1)
    side, jitter, opened = draw.uniform(*shape, SIDES, 3).unbind(-1)
    angle = 2 * pi * (turn[..., None] + (torch.arange(SIDES) + 0.5 * (jitter - 0.5)) / SIDES)
    normals = torch.stack([angle.cos(), angle.sin()], -1)
    centre = 2 * torch.stack([centre_x, centre_y], -1) - 1
    # A side that is left open makes a strip, a wedge or the edge of a large shadow of a few-sided shape.
    reach = torch.where(opened < 0.35, 4.0, 0.08 + 0.6 * side)
    offsets = (normals @ centre[..., None])[..., 0] + reach
    darkness = (s * settings.shadow)[:, None] * (0.4 + 0.6 * dark) * (1 - 0.7 * night)[:, None]
    darkness = torch.where((torch.arange(SHADOWS) > 0) & (second < 0.5), 0, darkness)
    return {
        "shadow_normals": normals,
        "shadow_offsets": offsets,
        "shadow_outline": 2 * draw.uniform(*shape, 12, 15) - 1,
        "shadow_wobble": torch.where(straight < 0.4, 0, 0.02 + 0.5 * wobble),
        "shadow_softness": 0.01 * torch.exp(3.7 * soft),
        "shadow_darkness": darkness,
    }


def _lamps(s: Tensor, night: Tensor, balance: Tensor, settings: LightingSettings, draw: Random) -> dict[str, Tensor]:
    """What `lighting_fields.lamp` wants, for LAMPS lamps or cones of each picture."""
    numbers = draw.uniform(len(s), LAMPS, 10).unbind(-1)
    centre_x, centre_y, radius, angle, width, cone, bright, warm, seen, there = numbers
    direction = pi * angle  # downwards, more or less: y points down
    opening = torch.cos(0.25 + 0.6 * width)
    light = torch.stack([torch.ones_like(warm), 0.72 + 0.28 * warm, 0.38 + 0.62 * warm], -1)
    power = (s * settings.lamp * (1 - 0.65 * night))[:, None] * (0.05 + 0.95 * bright**2) * (there < 0.7)
    colour = light * power[..., None] * balance[:, None]
    return {
        "lamp_centre": torch.stack([2.2 * centre_x - 1.1, 1.8 * centre_y - 1.1], -1),
        "lamp_radius": 0.15 * torch.exp(1.8 * radius),
        "lamp_direction": torch.stack([direction.cos(), direction.sin()], -1),
        "lamp_width": torch.where(cone < 0.5, opening, -2.0),
        "lamp_colour": colour,
        "lamp_glow": colour * torch.where(seen < 0.4, 0.3 * seen, 0)[..., None] * night[:, None, None],
    }
