"""flowkit: given any two images, where did every pixel go?

The public API is loaded on first use, so that `import flowkit` costs nothing:
`flowkit.flow(a, b)`, `flowkit.match(a, b)`, `flowkit.align(source, target, multi_h=True)`, `flowkit.homography(a, b)`,
`flowkit.pose(a, b, K0, K1)`, `flowkit.with_egomotion(flow, K0, K1)`, `flowkit.warp(image, flow=...)`,
`flowkit.read_image(path)`, `flowkit.load_model(name)`; paths, arrays and tensors are all welcome wherever an image is.
"""

from importlib import import_module

from flowkit._version import __version__

_API = {
    "flow": ("flowkit.pipelines.flow", "flow"),
    "match": ("flowkit.pipelines.match", "match"),
    "homography": ("flowkit.pipelines.homography", "homography"),
    "pose": ("flowkit.pipelines.pose", "pose"),
    "with_egomotion": ("flowkit.pipelines.egomotion", "with_egomotion"),
    "align": ("flowkit.pipelines.align", "align"),
    "load_model": ("flowkit.pipelines.network", "load_model"),
    "warp": ("flowkit.pipelines.warp", "warp"),
    "read_image": ("flowkit.io.images", "read_image"),
    "read_flow": ("flowkit.io.flow_files", "read_flow"),
    "write_flow": ("flowkit.io.flow_files", "write_flow"),
}

__all__ = ["__version__", *_API]


def __getattr__(name: str) -> object:
    if name not in _API:
        raise AttributeError(f"module 'flowkit' has no attribute {name!r}")
    module, attribute = _API[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
