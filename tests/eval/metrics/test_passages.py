from PIL import Image, ImageDraw

from earlyfusion.eval.metrics.passages import ink_box


def test_ink_box_is_where_the_image_differs_from_its_background():
    image = Image.new("RGB", (40, 20), "white")
    assert ink_box(image) is None
    ImageDraw.Draw(image).rectangle((5, 3, 11, 15), fill="black")
    assert ink_box(image) == (5, 3, 12, 16)
    assert ink_box(image.point(lambda v: 255 - v)) == (5, 3, 12, 16)
