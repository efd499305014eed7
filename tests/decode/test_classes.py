"""Labels that are classes have their names and colours; objects have none."""

import pytest

from napari_tessera.decode import get_decoder
from napari_tessera.decode.classes import LabelClass, label_classes
from napari_tessera.models.spec.spec import ModelSpec, WindowRule


def spec(*classes: str, channels: int = 0, colours: tuple[str, ...] = ()) -> ModelSpec:
    return ModelSpec("net", 3, 1, channels or len(classes), WindowRule.free(3), classes=classes, class_colours=colours)


def test_argmax_numbers_classes_by_channel() -> None:
    found = label_classes(spec("outside", "cell", colours=("#000000", "#00ff00")), get_decoder("argmax"))
    assert found == (LabelClass(0, "outside", "#000000"), LabelClass(1, "cell", "#00ff00"))
    assert found[1].to_dict() == {"label": 1, "name": "cell", "colour": "#00ff00"}
    assert label_classes(spec("cell"), get_decoder("argmax")) == (LabelClass(1, "cell"),)
    assert LabelClass(1, "cell").to_dict() == {"label": 1, "name": "cell"}


def test_regions_have_the_labels_that_they_are_drawn_with() -> None:
    found = label_classes(spec("cell", "organelle", "nucleus"), get_decoder("regions", labels=(5, 2, 2)))
    assert found == (LabelClass(2, "nucleus"), LabelClass(5, "cell"))


@pytest.mark.parametrize("name", ["threshold", "watershed", "contour-distance"])
def test_objects_are_no_classes(name: str) -> None:
    assert label_classes(spec("a", "b"), get_decoder(name)) == ()


def test_names_that_are_not_those_of_channels_are_left_out() -> None:
    assert label_classes(spec("a", "b", channels=3), get_decoder("argmax")) == ()
