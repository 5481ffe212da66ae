"""Image preprocessing: what the model sees of a camera image."""

from __future__ import annotations

import numpy as np
import pytest
from grape_policy.vla.preprocess import Preprocessor
from PIL import Image
from vla_factory import random_images


def test_normalisation_is_the_published_one_per_tower() -> None:
    image = np.full((1, 32, 32, 3), (255, 128, 0), dtype=np.uint8)
    pixels = Preprocessor(32)(image)[0, :, 0, 0]
    dino = [(1 - 0.484375) / 0.228515625, (128 / 255 - 0.455078125) / 0.2236328125, -0.40625 / 0.224609375]
    siglip = [1.0, 2 * 128 / 255 - 1, -1.0]
    assert pixels.numpy() == pytest.approx(np.array(dino + siglip), abs=1e-6)


def test_resizing_is_pil_bicubic_of_the_central_square() -> None:
    image = random_images(1)
    square = Image.fromarray(image[0, :, 8:56]).resize((32, 32), Image.Resampling.BICUBIC)
    resized = Preprocessor(32).resize(image)[0]
    np.testing.assert_array_equal(
        resized[2:-2, 2:-2], np.asarray(square)[2:-2, 2:-2]
    )  # the rim sees beyond the crop


def test_published_checkpoints_squash_the_whole_image() -> None:
    image = random_images(1)
    squashed = Image.fromarray(image[0]).resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(Preprocessor(32, square_crop=False).resize(image)[0], np.asarray(squashed))


def test_centre_crop_keeps_its_share_of_the_area() -> None:
    left, top, right, bottom = Preprocessor(32, center_crop_area=0.9).crop_box(240, 320)
    assert (right - left) * (bottom - top) == pytest.approx(0.9 * 240 * 240)
    assert (left + right, top + bottom) == pytest.approx((320, 240))


def test_an_image_of_the_right_size_is_untouched() -> None:
    image = random_images(2)[:, :32, :32]
    np.testing.assert_array_equal(Preprocessor(32).resize(image), image)


def test_the_config_file_gives_the_same_preprocessor() -> None:
    preprocessor = Preprocessor(112, center_crop_area=0.9)
    assert Preprocessor.from_dict(preprocessor.to_dict()) == preprocessor
    published = {key: value for key, value in preprocessor.to_dict().items() if "crop" not in key}
    assert not Preprocessor.from_dict(published).square_crop


@pytest.mark.parametrize(
    "change",
    [{"means": [[0, 0, 0]]}, {"stds": [[0, 0, 0]] * 2}, {"input_sizes": []}, {"center_crop_area": 2}],
)
def test_impossible_configs_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match="preprocessor_config"):
        Preprocessor.from_dict({**Preprocessor(32).to_dict(), **change})


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 3), np.uint8), np.zeros((1, 4, 4, 3)), np.zeros((1, 4, 4, 4), np.uint8)]
)
def test_other_arrays_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        Preprocessor(32).resize(image)
