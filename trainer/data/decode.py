"""JPEG bytes to pixels. Not for augmentation: that is augment.py.

libjpeg-turbo by simplejpeg is 1.8 times as fast as Pillow and equal within rounding (torchvision's
own decoder is deprecated); Pillow takes what it refuses: CMYK, odd bytes, and files that are not
JPEG in spite of their name.
"""

from __future__ import annotations

import io
import warnings

import simplejpeg
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

GREY = 128
"""Value of the pixels that stand for a damaged image: the middle of the range."""

MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""Above this Pillow refuses too; a forged header must not take gigabytes."""


class DamagedImage(ValueError):
    """Bytes that no decoder reads as a whole picture."""


def decode(data: bytes) -> Tensor:
    """The picture as (3, H, W) uint8 RGB. Raises DamagedImage."""
    if data[:2] == b"\xff\xd8":
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            if height * width > MOST_PIXELS:
                raise DamagedImage(f"too many pixels: {width} x {height}")
            if colours != "CMYK":
                return torch.from_numpy(simplejpeg.decode_jpeg(data, "RGB")).permute(2, 0, 1)
        except DamagedImage:
            raise
        except ValueError:
            pass  # damaged, or read by Pillow all the same
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd EXIF and palettes are no reason to refuse
            with Image.open(io.BytesIO(data)) as picture:
                pixels = torch.frombuffer(
                    bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8
                )
                width, height = picture.size
    except UnidentifiedImageError as error:
        raise DamagedImage("not a whole picture: in no format that Pillow knows") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DamagedImage(f"not a whole picture: {error}") from error
    except Image.DecompressionBombError as error:
        raise DamagedImage(f"too many pixels: {error}") from error
    return pixels.view(height, width, 3).permute(2, 0, 1).contiguous()
