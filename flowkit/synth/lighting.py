"""Changing the light: the two pictures of a pair as if taken by another camera setting, in other weather, at another hour.

What is physical happens in linear light: lamps, shadows, haze, blur, exposure, white balance and noise; then the camera's tone
curve, contrast, colours and JPEG follow. Geometry stays as it is: flow, validity and occlusion are untouched.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from flowkit.batch import PairBatch
from flowkit.geometry.grids import pixel_grid
from flowkit.synth.lighting_fields import hazy, lamp, remoteness, shadow, smooth_field
from flowkit.synth.lighting_looks import LightingSettings, Looks, draw_looks
from flowkit.synth.random import Random, generator_on
from flowkit.synth.sensor import blur, jpeg, noisy, to_display, to_linear, vignette
from flowkit.types import Size

__all__ = ["LightingSettings", "erase", "relight"]

USUAL = LightingSettings()
LUMA = (0.299, 0.587, 0.114)
GREY = 0.18
"""The mean linear light of a usual picture."""


def relight(
    batch: PairBatch, strength: float | Tensor, generator: torch.Generator, settings: LightingSettings = USUAL
) -> PairBatch:
    """The batch with other light in image0 and, differently, in image1; nothing but the pictures changes.

    `strength` in [0, 1] is one number or one (B,) for each pair: 0 changes nothing, about 0.25 is the colour jitter that flow
    networks are usually trained with, 1 goes from day to night. `settings` say what strength 1 means. The same generator state
    gives the same pictures on the same device; a CPU generator serves any device and spares a CUDA device the waiting.
    ValueError when a strength is outside [0, 1].
    """
    amount = torch.as_tensor(strength, dtype=torch.float32).detach().cpu().expand(len(batch))
    if not bool(((amount >= 0) & (amount <= 1)).all()):
        raise ValueError(f"a strength of light must be in [0, 1], got {strength}")
    draw = Random.on_host(generator)
    looks = draw_looks(amount, draw, settings)
    local = generator_on(batch.device, generator)
    image0, image1 = batch.image0, batch.image1
    if image0.shape == image1.shape and (batch.depth0 is None) == (batch.depth1 is None):
        depth = None if batch.depth0 is None or batch.depth1 is None else torch.cat([batch.depth0, batch.depth1])
        lit0, lit1 = _seen(torch.cat([image0, image1]), depth, looks, local, settings).chunk(2)
    else:
        lit0 = _seen(image0, batch.depth0, looks.at(slice(None, len(batch))), local, settings)
        lit1 = _seen(image1, batch.depth1, looks.at(slice(len(batch), None)), local, settings)
    made = {**batch.made, "light": [round(value, 4) for value in amount.tolist()]}
    lit = replace(batch, image0=lit0, image1=lit1, made=made)
    return erase(lit, settings.erase, generator) if settings.erase > 0 else lit


def erase(
    batch: PairBatch, probability: float, generator: torch.Generator, side: tuple[float, float] = (50, 100)
) -> PairBatch:
    """Random erasing of image1: one or two rectangles are filled with its mean colour, in this share of the pairs.

    Corners are drawn uniformly over the picture and sides from `side` in pixels; what sticks out is cut off (RAFT, Teed and
    Deng, ECCV 2020, training code: probability 0.5, sides 50 to 100). Flow, validity and occlusion stay as they are.
    """
    height, width = batch.image1.shape[-2:]
    draw = Random.on_host(generator)
    numbers = draw.uniform(len(batch), 2, 4)
    on = draw.uniform(len(batch), 2) < torch.tensor([probability, 0.5])
    on[:, 1] &= on[:, 0]
    low = (numbers[..., :2] * torch.tensor([width, height])).floor()
    high = low + side[0] + ((side[1] - side[0]) * numbers[..., 2:4]).floor()
    high = torch.where(on[..., None], high, low)
    box = torch.cat([low, high], -1).to(batch.device)[..., None, None]
    x, y = pixel_grid(height, width, batch.device)
    within = (x >= box[:, :, 0]) & (y >= box[:, :, 1]) & (x < box[:, :, 2]) & (y < box[:, :, 3])
    mean = batch.image1.mean((-2, -1), keepdim=True)
    return replace(batch, image1=torch.where(within.any(1, keepdim=True), mean, batch.image1))


def _seen(
    image: Tensor, depth: Tensor | None, looks: Looks, generator: torch.Generator, settings: LightingSettings
) -> Tensor:
    """The pictures (N, 3, H, W) as the looks say; those of strength 0 as they were."""
    looks = looks.to(image.device)
    light = to_linear(image)
    usual = light.mean((1, 2, 3))
    light = _illuminated(light, looks)
    light = _through_air(light, depth, looks)
    mean = light.mean((1, 2, 3))
    gain = _exposure(mean, usual, looks, settings)
    light *= gain[:, None, None, None]
    light = _softened(light, looks)
    if len(index := looks.where("noise")):
        # A sensor set for a dark picture amplifies less.
        level = ((mean * gain)[index] / GREY).clamp(max=1)
        shot, read = looks["shot"][index] * level.sqrt(), looks["read"][index] * level.sqrt()
        light[index] = noisy(light[index], shot, read, generator)
    picture = _developed(to_display(light), looks)
    if len(index := looks.where("jpeg")):
        picture[index] = jpeg(picture[index], looks["quality"][index])
    if len(index := looks.where("unchanged")):
        picture[index] = image[index]
    return picture


def _illuminated(light: Tensor, looks: Looks) -> Tensor:
    """Times the light that falls on the scene: its colour, unevenness and vignetting, less shadows, and with lamps."""
    size = int(light.shape[-2]), int(light.shape[-1])
    field = smooth_field(looks["unevenness"], size).exp_()
    if len(index := looks.where("shadow")):
        field[index] *= 1 - _shade(looks, index, size)
    daylight = (looks["daylight"] * looks["balance"])[:, :, None, None]
    result = light * field[:, None] * daylight
    if len(index := looks.where("lamp")):
        centre, radius, direction, width = (
            looks[f"lamp_{name}"][index] for name in ("centre", "radius", "direction", "width")
        )
        shine = lamp(centre, radius, direction, width, size).flatten(2)
        lit = (looks["lamp_colour"][index].mT @ shine).view(-1, 3, *size).mul_(light[index])
        lit += (looks["lamp_glow"][index].mT @ shine.square_()).view(-1, 3, *size)
        result[index] += lit
    if len(index := looks.where("vignette")):
        result[index] *= vignette(looks["vignette"][index], size)
    return result


def _shade(looks: Looks, index: Tensor, size: Size) -> Tensor:
    """(n, H, W): the share of the light that the shadows take from the pictures `index`."""
    normals, offsets, outline, wobble, softness = (
        looks[f"shadow_{name}"][index].flatten(0, 1) for name in ("normals", "offsets", "outline", "wobble", "softness")
    )
    shapes = shadow(normals, offsets, smooth_field(outline, size) * wobble[:, None, None], softness)
    return (shapes.unflatten(0, (len(index), -1)) * looks["shadow_darkness"][index, :, None, None]).amax(1)


def _through_air(light: Tensor, depth: Tensor | None, looks: Looks) -> Tensor:
    """Through haze, denser with depth; without depth, as on a plane that recedes upwards."""
    if not len(index := looks.where("haze")):
        return light
    size = int(light.shape[-2]), int(light.shape[-1])
    far = smooth_field(looks["far"][index], size) if depth is None else remoteness(depth[index])
    clear = light[index]
    mean = clear.mean((1, 2, 3))
    # The haze is lit by what lights the scene, and the less of that a picture shows, the more of it is elsewhere.
    air = looks["air"][index] * (mean + 0.25 * mean.sqrt())[:, None]
    light[index] = hazy(clear, far * looks["haze"][index, None, None], air)
    return light


def _exposure(mean: Tensor, usual: Tensor, looks: Looks, settings: LightingSettings) -> Tensor:
    """(N,): the gain of exposure, held back so that the mean neither drowns in black nor in white.

    mean (N,) is the picture's before exposure, usual (N,) that of the picture as it was, which is always allowed.
    """
    gain = looks["exposure"].exp2()
    exposed = (mean * gain).clamp_min(1e-6)
    held = exposed.maximum(usual.clamp(max=settings.darkest)).minimum(usual.clamp(min=settings.brightest))
    return gain * held / exposed


def _softened(light: Tensor, looks: Looks) -> Tensor:
    """Out of focus, and shaken."""
    if len(index := looks.where("blur")):
        light[index] = blur(light[index], looks["defocus"][index], looks["motion"][index], looks["angle"][index])
    return light


def _developed(picture: Tensor, looks: Looks) -> Tensor:
    """Displayed values after gamma, and after contrast (about the mean), saturation and hue in one matrix."""
    gamma = looks["gamma"][:, None, None, None]
    picture = picture.clamp_min(1e-5).log_().mul_(gamma).exp_()
    colours = _colour_matrix(looks["saturation"], looks["hue"])
    contrast = looks["contrast"][:, None, None]
    mean = picture.mean((1, 2, 3))[:, None, None]
    flat = torch.baddbmm((1 - contrast) * mean, contrast * colours, picture.flatten(2))
    return flat.clamp_(0, 1).view_as(picture)


def _colour_matrix(saturation: Tensor, hue: Tensor) -> Tensor:
    """(N, 3, 3): scales the distance from grey by `saturation` and turns it about grey by `hue` turns; luma is kept."""
    angle = 2 * torch.pi * hue
    grey = saturation.new_tensor(LUMA).expand(3, 3)
    identity = torch.eye(3, device=saturation.device)
    # The rotation about (1, 1, 1): cos I + sin [axis]x on what is not grey.
    cross = saturation.new_tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    turn = angle.cos()[:, None, None] * identity + angle.sin()[:, None, None] * cross
    colour = saturation[:, None, None] * (turn @ (identity - grey))
    return grey + (identity - grey) @ colour
