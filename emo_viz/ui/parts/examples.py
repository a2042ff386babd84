"""Texts to try: what the models were trained on, and what mixes it. Written for this app."""

_RECIPE = """Lentil soup with lemon

- 1 cup red lentils
- 1 onion, chopped
- 2 cloves garlic, minced
- 1 teaspoon ground cumin
- Salt and pepper
- Juice of 1 lemon

1. Heat the oil in a large pot and cook the onion until soft.
2. Add the garlic and cumin and stir for one minute.
3. Add the lentils and 4 cups of water. Simmer for 20 minutes.
4. Season with salt, pepper and lemon juice, and serve hot.
"""
_CODE = """def moving_average(values, width):
    \"\"\"Return the mean of every window of the given width.\"\"\"
    if width < 1:
        raise ValueError("width must be positive")
    total = sum(values[:width])
    means = [total / width]
    for old, new in zip(values, values[width:]):
        total += new - old
        means.append(total / width)
    return means
"""
_CHESS = """1. e4 e5 2. Nf3 Nc6 3. Bb5 a6 4. Ba4 Nf6 5. O-O Be7 6. Re1 b5 7. Bb3 d6 8. c3 O-O
9. h3 Nb8 10. d4 Nbd7 11. Nbd2 Bb7 12. Bc2 Re8
"""
_MEDICINE = """The patient was given 500 mg of amoxicillin three times a day for seven days.
Side effects of this medicine include nausea, rash and diarrhoea. Tell your doctor if you
are allergic to penicillin or have a disease of the kidneys.
"""
_MIXED = f"{_RECIPE.split(chr(10) * 2 + '1.')[0]}\n\n{_CODE}"
EXAMPLES = {
    "Recipe": _RECIPE,
    "Python code": _CODE,
    "Recipe, then code": _MIXED,
    "Chess game": _CHESS,
    "Medicine": _MEDICINE,
}
OF_SEVERAL_KINDS = frozenset([_MIXED])  # which tell their story as a whole
