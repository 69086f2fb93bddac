"""Image pyramids on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from marey._device._arrays import DeviceArray, beside, float_type, result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from marey._device._adapters import Shape


class PyramidKernels:
    """Image pyramids on a device, under the names of `marey._cpu`."""

    _cuda: Any

    def down(self, image: DeviceArray, channel_axis: int | None, out: DeviceArray | None) -> Any:
        function = "marey.down"
        shape = self._cuda.pyramid_shapes(function, image.view, 1, channel_axis)[1]
        y = result(function, out, image, shape)
        self._cuda.down(function, image.view, channel_axis, y.view, image.queue)
        return y.array

    def up(
        self,
        image: DeviceArray,
        height: int | None,
        width: int | None,
        channel_axis: int | None,
        out: DeviceArray | None,
    ) -> Any:
        (shape,) = self._cuda.up_shape(image.view, height, width, channel_axis)
        y = result("marey.up", out, image, shape)
        self._cuda.up(image.view, height, width, channel_axis, y.view, image.queue)
        return y.array

    def _levels(
        self,
        function: str,
        image: DeviceArray,
        shapes: Sequence[Shape],
        dtype: Any,
        out: Sequence[DeviceArray] | None,
    ) -> list[DeviceArray]:
        if out is None:
            return [image.empty(shape, dtype) for shape in shapes]
        if len(out) != len(shapes):
            raise ValueError(f"[{function}] out: expected {len(shapes)} arrays; found {len(out)}")
        return [beside(function, "out", array, image) for array in out]

    def gaussian(
        self,
        image: DeviceArray,
        levels: int,
        channel_axis: int | None,
        out: Sequence[DeviceArray] | None,
    ) -> list[Any]:
        function = "marey.gaussian"
        shapes = self._cuda.pyramid_shapes(function, image.view, levels, channel_axis)
        pyramid = self._levels(function, image, shapes, image.dtype, out)
        views = [level.view for level in pyramid]
        self._cuda.gaussian(image.view, channel_axis, views, image.queue)
        pyramid[0].array[...] = image.array
        return [level.array for level in pyramid]

    def laplacian(
        self,
        image: DeviceArray,
        levels: int,
        channel_axis: int | None,
        out: Sequence[DeviceArray] | None,
    ) -> list[Any]:
        function = "marey.laplacian"
        shapes = self._cuda.pyramid_shapes(function, image.view, levels, channel_axis)
        dtype = float_type(image)
        bands = self._levels(function, image, shapes, dtype, out)
        between = [image.empty(shape, dtype) for shape in shapes[1:-1]]
        self._cuda.laplacian(
            image.view,
            channel_axis,
            [band.view for band in bands],
            [level.view for level in between],
            image.queue,
        )
        if levels == 0:
            bands[0].array[...] = image.array
        return [band.array for band in bands]

    def collapse(
        self, bands: Sequence[DeviceArray], channel_axis: int | None, out: DeviceArray | None
    ) -> Any:
        function = "marey.collapse"
        first = bands[0]
        for k, band in enumerate(bands):
            beside(function, f"bands[{k}]", band, first)
        y = result(function, out, first)
        between = [first.empty(band.shape) for band in bands[1:-1]]
        self._cuda.collapse(
            [band.view for band in bands],
            channel_axis,
            [level.view for level in between],
            y.view,
            first.queue,
        )
        if len(bands) == 1:
            y.array[...] = first.array
        return y.array
