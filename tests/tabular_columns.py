"""Columns of numbers and of categories, which the tests of the tabular encoders share."""

NUMBERS = {"age": [50.0, 10.0], "dose": [0.0, 0.5]}
CATEGORIES = {"sex": ["female", "male"], "ward": ["1", "2", "3"]}
COLUMNS = {
    "both": {"numbers": NUMBERS, "categories": CATEGORIES},
    "numbers": {"numbers": NUMBERS},
    "categories": {"categories": CATEGORIES},
}
